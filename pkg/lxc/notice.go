package lxc

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// Unnoticed is the reason of a container that has ended without libvirt's notice.
const Unnoticed = "unnoticed"

// noticeLimit is how long libvirt may take to notice that a container has ended. The
// init is there before libvirt says that the container runs, so one without an init
// has ended. libvirt 9.0 never notices when the init ends before its controller
// listens for that, or when libvirtd has lost its connection to the controller.
const noticeLimit = 2 * time.Second

// startTries is how often a container is started until libvirtd watches it, and knows its
// init.
const startTries = 5

// Variables for the tests' sake.
var (
	statusDir  = pidDir // where libvirtd keeps what it knows of a running container, NAME.xml
	heardLimit = 5 * time.Second
)

// unnoticed says whether libvirt takes a container for running whose init has ended.
func (i Info) unnoticed() bool { return i.Active() && i.InitPID == 0 }

// settle gives what a container is once libvirt has had the time to notice its end. One
// whose end libvirt does not notice is Shutoff all the same: Start and Destroy
// put libvirt right.
func (h *Host) settle(ctx context.Context, info Info) (Info, error) {
	for until := time.Now().Add(noticeLimit); info.unnoticed(); {
		if time.Now().After(until) {
			info.State, info.Reason, info.PID = Shutoff, Unnoticed, 0
			return info, nil
		}
		if err := wait.For(ctx, poll); err != nil {
			return info, err
		}
		var err error
		if info, err = h.inspect(ctx, info.ID); err != nil {
			return info, err
		}
	}
	return info, nil
}

// watched says whether libvirtd is connected to the controller of a container. Libvirt 9.0
// can lose the connection while another container starts or ends at the same time, also
// one that has just been destroyed, and then it does not notice when the container ends,
// nor start it again when it reboots. Where the controller's socket cannot be seen, nothing
// is held against it.
func watched(name string) bool {
	sockets, err := os.ReadFile("/proc/net/unix")
	return err != nil || connected(string(sockets), "/lxc/"+name+".sock")
}

// heard says whether libvirtd comes to know the init of a container that was started: the
// controller names it once, and libvirt 9.0 drops that when it comes before libvirtd is
// ready for it, which then cannot change a device as long as the container lives. Where
// libvirt's own note of it cannot be read, nothing is held against it.
func heard(ctx context.Context, info Info) bool {
	ctx, cancel := context.WithTimeout(ctx, heardLimit)
	defer cancel()
	return wait.Until(ctx, time.Millisecond, poll, func() (bool, error) {
		text, err := os.ReadFile(filepath.Join(statusDir, info.Name+".xml"))
		named := initNote.FindSubmatch(text)
		init, e := findInit(info.PID)
		if err != nil || named == nil || e != nil {
			return true, nil
		}
		init.Close()
		return string(named[1]) == strconv.Itoa(init.pid), nil
	}) == nil
}

// initNote is that note: 0, or the init of the life before, until it is known.
var initNote = regexp.MustCompile(`<init pid='(-?[0-9]+)'/>`)

// connected says whether a socket whose path ends so has a connection, or is not there.
func connected(sockets, suffix string) bool {
	const listening = "01"
	seen := false
	for line := range strings.Lines(sockets) {
		// Num RefCount Protocol Flags Type St Inode Path
		if line = strings.TrimSuffix(line, "\n"); !strings.HasSuffix(line, suffix) {
			continue
		}
		if f := strings.Fields(line); len(f) > 7 && f[5] != listening {
			return true
		}
		seen = true
	}
	return !seen
}
