package lxc

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/proc"
)

// An init ends at once if it does before it has had atOnce of a CPU, and as much as its
// process had before, which on a slow host is more; or has been asleep at each of
// asleepLooks. On a busy host that takes its time, of which there is startLimit.
const (
	atOnce      = 10 * time.Millisecond
	asleepLooks = 5
	startLimit  = 2 * time.Second
)

// WaitStart waits until the init that a container's controller was just seen to have has
// outlived its first moments, or has ended: who looks after that sees one that ends at once
// to have ended, however busy the host is.
func WaitStart(controller int) {
	p, err := findInit(controller)
	if err != nil {
		return
	}
	defer p.Close()
	asleep := 0
	enough := time.Duration(0)
	for until := time.Now().Add(startLimit); asleep < asleepLooks && proc.Alive(p.pidfd) && time.Now().Before(until); time.Sleep(time.Millisecond) {
		var ran time.Duration
		if data, err := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", p.pid)); err == nil {
			_, _ = fmt.Sscan(string(data), &ran)
		}
		if enough == 0 {
			enough = 2*ran + atOnce
		}
		if ran >= enough {
			return
		}
		if st, err := readStatus(p.pid); err == nil && strings.HasPrefix(st["State"], "S") {
			asleep++
		} else {
			asleep = 0
		}
	}
}
