//go:build faults

package fault

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

var (
	mu   sync.Mutex
	seen = map[string]int{}
)

// Point is called between two effects, with a name for that moment. The variable
// LXCBOOT_FAULT_LOG names a file that the names are appended to. With
// LXCBOOT_FAULT=NAME[#N]=ACTION, the process does ACTION to itself when NAME is reached
// for the N-th time (default: the first): kill (SIGKILL), int (SIGINT), or stop (SIGSTOP,
// so that a test can change the world).
func Point(name string) {
	mu.Lock()
	defer mu.Unlock()
	seen[name]++
	if log := os.Getenv("LXCBOOT_FAULT_LOG"); log != "" {
		if f, err := os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
			fmt.Fprintf(f, "%s#%d\n", name, seen[name])
			f.Close()
		}
	}
	want, action, ok := strings.Cut(os.Getenv("LXCBOOT_FAULT"), "=")
	if !ok {
		return
	}
	at, count, counted := strings.Cut(want, "#")
	n := 1
	if counted {
		n, _ = strconv.Atoi(count)
	}
	if at != name || seen[name] != n {
		return
	}
	switch action {
	case "kill":
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "int":
		syscall.Kill(os.Getpid(), syscall.SIGINT)
	case "stop":
		// To this thread: it would run on for a while if another took the signal.
		runtime.LockOSThread()
		syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
		runtime.UnlockOSThread()
	}
}
