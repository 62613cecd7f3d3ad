package tty

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Ends are the ends of the two terminals that a container's controller joins: one on the
// host, and one in the container's own devpts.
type Ends struct {
	Host   *os.File // the terminal on the host; nil when there is none (any more)
	Master *os.File // its other end, which keeps it from being hung up
	Inner  *os.File // the other end of the one inside; nil where there is none
}

// Borrow takes the ends of a controller, whose number and pidfd are given: its masters,
// and the terminal on the host, newly opened.
func Borrow(pid int, pidfd *os.File) (Ends, error) {
	var e Ends
	var host unix.Stat_t
	if err := unix.Stat("/dev/pts", &host); err != nil {
		return e, fmt.Errorf("cannot open the console: %w", err)
	}
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		link, _ := os.Readlink(filepath.Join(dir, entry.Name()))
		n, err := strconv.Atoi(entry.Name())
		if err != nil || !strings.HasSuffix(link, "ptmx") {
			continue
		}
		fd, err := unix.PidfdGetfd(int(pidfd.Fd()), n, 0)
		if err != nil {
			continue
		}
		master := os.NewFile(uintptr(fd), "ptmx")
		terminal, err := Peer(master)
		if err != nil {
			master.Close()
			continue
		}
		var st unix.Stat_t
		err = Control(terminal, func(fd int) error { return unix.Fstat(fd, &st) })
		// The terminals inside are in another devpts.
		switch outside := st.Dev == host.Dev; {
		case err == nil && outside && e.Host == nil:
			e.Host, e.Master = terminal, master
			continue
		case err == nil && !outside && e.Inner == nil:
			e.Inner = master
		default:
			master.Close()
		}
		terminal.Close()
	}
	return e, nil
}

// Close lets go of them.
func (e Ends) Close() {
	for _, f := range []*os.File{e.Host, e.Master, e.Inner} {
		if f != nil {
			f.Close()
		}
	}
}
