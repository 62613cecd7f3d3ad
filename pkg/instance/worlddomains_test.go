package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/lxcboot/lxcboot/pkg/cgroup"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
)

type domainsFake struct{ *world }

func (w domainsFake) State(_ context.Context, id string) (lxc.Info, error) {
	d := w.domains[id]
	if d == nil {
		return lxc.Info{}, lxc.ErrNotFound
	}
	info := lxc.Info{ID: id, Name: d.cfg.Name, State: d.state}
	if d.state == lxc.Running {
		info.PID = 1
	}
	return info, nil
}

func (w domainsFake) Running(ctx context.Context) (map[string]lxc.Info, error) {
	all := map[string]lxc.Info{}
	for id, d := range w.domains {
		if d.state == lxc.Running {
			all[id], _ = w.State(ctx, id)
		}
	}
	return all, nil
}

func (w domainsFake) ByName(_ context.Context, name string) (lxc.Info, error) {
	for id, d := range w.domains {
		if d.cfg.Name == name {
			return lxc.Info{ID: id, Name: name, State: d.state}, nil
		}
	}
	return lxc.Info{}, lxc.ErrNotFound
}

func (w domainsFake) Define(ctx context.Context, cfg lxc.Config) error {
	return w.do(ctx, "define", func() error {
		if d := w.domains[cfg.UUID]; d != nil {
			d.cfg = cfg
			return nil
		}
		w.domains[cfg.UUID] = &domain{cfg: cfg, state: lxc.Shutoff}
		return nil
	})
}

func (w domainsFake) Start(ctx context.Context, id string) (info lxc.Info, err error) {
	err = w.do(ctx, "start", func() error {
		d := w.domains[id]
		if _, ok := w.mounts[d.cfg.Root]; !ok {
			return errors.New("started without a root")
		}
		if !w.launched[d.cfg.Launch] {
			return errors.New("started without its first program")
		}
		if !w.groups[id] {
			return errors.New("started without its groups")
		}
		for _, k := range d.cfg.Disks {
			if linked(k.Source) == "" {
				return errors.New("started with a disk that leads nowhere")
			}
		}
		clear(w.inside)
		for _, f := range d.cfg.Filesystems {
			if _, err := os.Lstat(f.Source); err != nil {
				return err
			}
			w.inside[f.Target] = w.mounts[f.Source] // empty: a directory of the host
		}
		d.state = lxc.Running
		info, err = w.State(ctx, id)
		return err
	})
	return info, err
}

func (w domainsFake) WaitInit(ctx context.Context, info lxc.Info) (lxc.Info, error) {
	return info, w.do(ctx, "wait for init", func() error { return nil })
}

func (w domainsFake) Shutdown(ctx context.Context, id string) error {
	return w.do(ctx, "shutdown", func() error {
		if d := w.domains[id]; d != nil {
			d.state = lxc.Shutoff
		}
		return nil
	})
}

func (w domainsFake) Destroy(ctx context.Context, id string) error {
	return w.do(ctx, "destroy", func() error {
		if d := w.domains[id]; d != nil {
			d.state = lxc.Shutoff
		}
		return nil
	})
}

func (w domainsFake) Undefine(ctx context.Context, id string) error {
	return w.do(ctx, "undefine", func() error {
		if d := w.domains[id]; d != nil && d.state == lxc.Running {
			return errors.New("undefined while it runs")
		}
		delete(w.domains, id)
		return nil
	})
}

func (w domainsFake) Usage(context.Context, string) (lxc.Usage, error) {
	return lxc.Usage{MemoryBytes: w.used}, nil
}

func (w domainsFake) Limit(ctx context.Context, id string, memoryMiB, vcpus int) error {
	return w.do(ctx, "limit", func() error {
		w.domains[id].memoryMiB, w.domains[id].vcpus = memoryMiB, vcpus
		return nil
	})
}

func (w domainsFake) AttachDisk(ctx context.Context, id string, k lxc.Disk) error {
	return w.do(ctx, "attach disk", func() error {
		d := w.domains[id]
		d.cfg.Disks = append(d.cfg.Disks, k)
		return nil
	})
}

func (w domainsFake) DetachDisk(ctx context.Context, id string, k lxc.Disk) error {
	return w.do(ctx, "detach disk", func() error {
		d := w.domains[id]
		d.cfg.Disks = slices.DeleteFunc(d.cfg.Disks, func(x lxc.Disk) bool { return x.Target == k.Target })
		return nil
	})
}

func (w domainsFake) CanLimitSwap() error { return nil }

type consolesFake struct{ *world }

func (w consolesFake) Open(lxc.Live) (Console, error) {
	return consoleFake(w), w.do(context.Background(), "open console", func() error { return nil })
}

func (w consolesFake) Claim(context.Context, string, proc.Process, string) error { return nil }

func (w consolesFake) Unclaim(context.Context, string, proc.Process, string) error { return nil }

type consoleFake struct{ *world }

func (w consoleFake) Close() {}

func (w consoleFake) Start(id string, _ []*os.File) (p proc.Process, err error) {
	err = w.do(context.Background(), "start console", func() error {
		w.next++
		w.console[w.next] = id
		p = proc.Process{PID: w.next}
		return nil
	})
	return p, err
}

func (w consolesFake) Ready() error { return nil }

func (w consolesFake) Guard(ctx context.Context, _ string, p proc.Process, _ *os.File) (func(), error) {
	err := w.do(ctx, "guard", func() error {
		if !w.Alive(p) {
			return errors.New("no process keeps the console")
		}
		w.guarded = true
		return nil
	})
	return func() {
		if w.guarded && !w.blind {
			clear(w.frozen)
		}
		w.guarded = false
	}, err
}

func (w consolesFake) Alive(p proc.Process) bool {
	_, ok := w.console[p.PID]
	return ok
}

func (w consolesFake) Stop(ctx context.Context, _ string, p proc.Process) error {
	return w.do(ctx, "stop console", func() error {
		w.die()
		delete(w.console, p.PID)
		return nil
	})
}

type kernelFake struct{ *world }

func (w kernelFake) Look(name string) (lxc.Live, error) {
	for _, d := range w.domains {
		if d.cfg.Name == name && d.state == lxc.Running {
			return lxc.Live{Controller: 1, Init: 2}, nil
		}
	}
	return lxc.Live{}, nil
}

func (w kernelFake) WaitStart(int) {}

func (w kernelFake) Ready() error { return nil }

func (w kernelFake) CheckInit(root, init string) error { return nil }

func (w kernelFake) Launch(dir string, _ lxc.Launch) error {
	return w.do(context.Background(), "launch", func() error {
		w.launched[dir] = true
		return nil
	})
}

func (w kernelFake) Unlaunch(dir string) error {
	if !w.launched[dir] {
		return nil
	}
	return w.do(context.Background(), "unlaunch", func() error {
		delete(w.launched, dir)
		return nil
	})
}

func (w kernelFake) MakeGroups(_ context.Context, id string, _ *lxc.IDMap, l cgroup.Limits) (string, error) {
	return "", w.do(context.Background(), "make groups", func() error {
		if l.MemoryMiB == 0 || l.VCPUs == 0 || l.Processes == 0 {
			return fmt.Errorf("not limited: %+v", l)
		}
		w.groups[id] = true
		return nil
	})
}

// Finish puts in a first process of the container's own.
func (w kernelFake) Finish(id string, init int, _ []lxc.Interface) error {
	return w.do(context.Background(), "finish", func() error {
		if !w.groups[id] || init == 0 {
			return fmt.Errorf("process %d cannot be confined", init)
		}
		w.confined[id] = true
		return nil
	})
}

func (w kernelFake) Mounted(_ int, device, dir string) (bool, error) {
	return device != "" && w.inside[dir] == device, nil
}

func (w kernelFake) Mount(_ int, target, dir string, _ *rootfs.IDMap) error {
	return w.do(context.Background(), "mount inside", func() error {
		if !w.running() {
			return lxc.ErrNotRunning
		}
		if w.mounts[target] == "" {
			return fmt.Errorf("nothing is mounted at %s", target)
		}
		w.inside[dir] = w.mounts[target]
		return nil
	})
}

func (w kernelFake) CheckIdle(_ context.Context, _ int, device, dir string) error {
	if w.usedBy != "" {
		return failure.Of(inuse.ErrUsed, "%s uses it", w.usedBy)
	}
	for target, path := range w.mounts {
		if path == device {
			return failure.Of(inuse.ErrUsed, "it is mounted at %s", target)
		}
	}
	return nil
}

func (w kernelFake) Unmount(ctx context.Context, init int, device, dir string) error {
	return w.do(ctx, "unmount inside", func() error {
		if err := w.CheckIdle(ctx, init, device, dir); err != nil {
			return err
		}
		if w.inside[dir] == device {
			delete(w.inside, dir)
		}
		return nil
	})
}

func (w kernelFake) WaitAlone(_ context.Context, _ string) error {
	if w.usedBy != "" {
		return failure.Of(inuse.ErrUsed, "%s uses it", w.usedBy)
	}
	return nil
}

func (w kernelFake) Carrier(device string) (string, error) {
	if w.carried && w.running() {
		return device, nil
	}
	return "", nil
}

func (w kernelFake) Take(context.Context, string, bool) (*os.File, error) { return os.Open(os.DevNull) }

func (w kernelFake) Arrange(init int, dirs map[string]string, ids *rootfs.IDMap) error {
	maps.DeleteFunc(w.inside, func(dir, device string) bool {
		for host, belongs := range dirs {
			if w.mounts[host] == device && dir == belongs {
				return false
			}
		}
		return true
	})
	for host, belongs := range dirs {
		if belongs != "" && w.inside[belongs] == "" {
			if err := w.Mount(init, host, belongs, ids); err != nil {
				return err
			}
		}
	}
	return nil
}

func (w kernelFake) ShowViews(int) (bool, error) { return false, nil }

func (w kernelFake) Interfaces(_ string, _ int, asked []lxc.Interface) ([]lxc.Interface, error) {
	return asked, nil
}

func (w kernelFake) RemoveGroups(_ context.Context, id string) error {
	if !w.groups[id] {
		return nil
	}
	return w.do(context.Background(), "remove groups", func() error {
		if d, ok := w.domains[id]; ok && d.state == lxc.Running {
			return errors.New("the groups are in use")
		}
		delete(w.groups, id)
		delete(w.confined, id)
		return nil
	})
}

func (w kernelFake) Hold(string) (Gate, error) { return gateFake{}, nil }

func (w kernelFake) Release(context.Context, string) error { return nil }

type gateFake struct{}

func (gateFake) Release() {}
