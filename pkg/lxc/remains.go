package lxc

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// remains is what a running container has on this host.
type remains struct {
	fds     []*os.File // of its processes
	cgroups []string   // directories
}

func remainsOf(info Info) *remains {
	r := &remains{}
	if p, err := findInit(info.PID); err == nil {
		r.fds = append(r.fds, p.pidfd)
		if groups, err := containerCgroups(info.PID, p.pid); err == nil {
			for _, g := range groups {
				r.cgroups = append(r.cgroups, g.Dir)
			}
		}
	}
	if fd, err := unix.PidfdOpen(info.PID, 0); err == nil {
		r.fds = append(r.fds, os.NewFile(uintptr(fd), "pidfd"))
	}
	return r
}

func (r *remains) Close() {
	for _, f := range r.fds {
		f.Close()
	}
}

func (r *remains) wait(ctx context.Context) error {
	for {
		there := false
		for _, f := range r.fds {
			there = there || proc.Alive(f)
		}
		for _, dir := range r.cgroups {
			_, err := os.Lstat(dir)
			there = there || err == nil
		}
		if !there {
			return nil
		}
		if err := wait.For(ctx, poll); err != nil {
			return err
		}
	}
}
