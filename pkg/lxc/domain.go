package lxc

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// The states of a container.
const (
	Running = "running"
	Paused  = "paused"
	Ending  = "shutting down"
	Shutoff = "shutoff"
	Crashed = "crashed"
	Unknown = "unknown"
)

// execLimit is how long a container may take from libvirt's word to its own init.
const execLimit = 20 * time.Second

// killAfter is when the init gets SIGKILL from us: libvirt's own way of destroying
// a container gives it SIGTERM first, and more than a second.
const killAfter = 50 * time.Millisecond

// goneLimit is how long a killed container may take to be gone.
const goneLimit = 60 * time.Second

// poll is the pace of waits that the kernel and libvirt offer no event for.
const poll = 20 * time.Millisecond

// Info is what libvirt and the kernel say of a container now.
type Info struct {
	ID      string `json:"id"`
	Name    string `json:"name"`
	State   string `json:"state"`             // Running, Shutoff, …
	Reason  string `json:"reason"`            // why it is in that state: booted, shutdown, destroyed, crashed, failed, …
	PID     int    `json:"pid,omitempty"`     // libvirt_lxc, the container's controller; 0 when not running
	InitPID int    `json:"init_pid,omitzero"` // the container's first process, as the host numbers it
}

// Active says whether the container has processes.
func (i Info) Active() bool { return i.PID != 0 }

// State gives the container of an id, or ErrNotFound. One that has ended without
// libvirt's notice is Shutoff, after a wait for libvirt to notice.
func (h *Host) State(ctx context.Context, id string) (Info, error) {
	info, err := h.inspect(ctx, id)
	if err != nil {
		return info, err
	}
	return h.settle(ctx, info)
}

// inspect is State as libvirt has it.
func (h *Host) inspect(ctx context.Context, id string) (Info, error) {
	return ask(ctx, h, id, func(conn *libvirt.Connect) (Info, error) {
		return inspect(func() (*libvirt.Domain, error) { return conn.LookupDomainByUUIDString(id) })
	})
}

// lookWidth is how many containers are looked at at once.
const lookWidth = 8

// Running gives the containers that run, by their ids, in one question to libvirt. One that
// State would wait for, as it may have ended, is left out.
func (h *Host) Running(ctx context.Context) (map[string]Info, error) {
	return ask(ctx, h, "that run", func(conn *libvirt.Connect) (map[string]Info, error) {
		doms, err := conn.ListAllDomains(libvirt.CONNECT_LIST_DOMAINS_RUNNING)
		if err != nil {
			return nil, err
		}
		infos := make([]Info, len(doms))
		var looks errgroup.Group
		looks.SetLimit(lookWidth)
		for i := range doms {
			looks.Go(func() (err error) {
				infos[i], err = identify(&doms[i])
				infos[i].State = Running
				infos[i].findInit()
				return errors.Join(err, doms[i].Free())
			})
		}
		err = looks.Wait()
		all := make(map[string]Info, len(doms))
		for _, info := range infos {
			if !info.unnoticed() {
				all[info.ID] = info
			}
		}
		return all, err
	})
}

// findInit looks for the container's first process.
func (i *Info) findInit() {
	if p, err := findInit(i.PID); err == nil {
		i.InitPID = p.pid
		p.Close()
	}
}

// ByName gives the container whose domain has a name, or ErrNotFound.
func (h *Host) ByName(ctx context.Context, name string) (Info, error) {
	info, err := ask(ctx, h, fmt.Sprintf("named %q", name), func(conn *libvirt.Connect) (Info, error) {
		return inspect(func() (*libvirt.Domain, error) { return conn.LookupDomainByName(name) })
	})
	if err != nil {
		return info, err
	}
	return h.settle(ctx, info)
}

// inspect gives what libvirt has of the domain that lookup finds. One that was started
// between the look-up and the question for its state is looked up anew: its controller is
// known by the look-up alone.
func inspect(lookup func() (*libvirt.Domain, error)) (Info, error) {
	for try := 1; ; try++ {
		dom, err := lookup()
		if err != nil {
			return Info{}, err
		}
		info, err := identify(dom)
		var state libvirt.DomainState
		var reason int
		if err == nil {
			state, reason, err = dom.GetState()
		}
		dom.Free()
		if err != nil {
			return info, err
		}
		info.State, info.Reason = stateWords(state, reason)
		if state == libvirt.DOMAIN_SHUTOFF || state == libvirt.DOMAIN_CRASHED {
			info.PID = 0
			return info, nil
		}
		info.findInit()
		if info.PID != 0 || try == 10 {
			return info, nil
		}
	}
}

// identify gives what is known of a container without asking libvirtd: its controller is
// the one of when it was looked up, or started.
func identify(dom *libvirt.Domain) (info Info, err error) {
	if info.ID, err = dom.GetUUIDString(); err != nil {
		return info, err
	}
	if info.Name, err = dom.GetName(); err != nil {
		return info, err
	}
	// An LXC domain's id is the pid of its controller; one that does not run has none.
	if id, err := dom.GetID(); err == nil {
		info.PID = int(id)
	}
	return info, nil
}

func stateWords(state libvirt.DomainState, reason int) (string, string) {
	pick := func(words map[int]string) string {
		if w, ok := words[reason]; ok {
			return w
		}
		return "unknown"
	}
	switch state {
	case libvirt.DOMAIN_RUNNING:
		return Running, pick(map[int]string{int(libvirt.DOMAIN_RUNNING_BOOTED): "booted", int(libvirt.DOMAIN_RUNNING_UNPAUSED): "unpaused"})
	case libvirt.DOMAIN_PAUSED:
		return Paused, pick(map[int]string{int(libvirt.DOMAIN_PAUSED_USER): "user", int(libvirt.DOMAIN_PAUSED_STARTING_UP): "starting up"})
	case libvirt.DOMAIN_SHUTDOWN:
		return Ending, "user"
	case libvirt.DOMAIN_SHUTOFF:
		return Shutoff, pick(map[int]string{
			int(libvirt.DOMAIN_SHUTOFF_SHUTDOWN): "shutdown", int(libvirt.DOMAIN_SHUTOFF_DESTROYED): "destroyed",
			int(libvirt.DOMAIN_SHUTOFF_CRASHED): "crashed", int(libvirt.DOMAIN_SHUTOFF_FAILED): "failed",
			int(libvirt.DOMAIN_SHUTOFF_DAEMON): "daemon",
		})
	case libvirt.DOMAIN_CRASHED:
		return Crashed, "crashed"
	}
	return Unknown, "unknown"
}

// Define makes the container known to libvirt, or changes what it knows of it. It
// fails with ErrExists when another container has the id or the name.
func (h *Host) Define(ctx context.Context, cfg Config) error {
	desc, err := cfg.XML()
	if err != nil {
		return err
	}
	_, err = change(ctx, h, cfg.Name, valueless(func(conn *libvirt.Connect) error {
		dom, err := conn.DomainDefineXML(desc)
		if err == nil {
			return dom.Free()
		}
		// libvirt has no code of its own for a name or id that is taken.
		if other, e := conn.LookupDomainByName(cfg.Name); e == nil {
			defer other.Free()
			if id, e := other.GetUUIDString(); e == nil && id != cfg.UUID {
				return fmt.Errorf("the name %q %w: container %s has it; choose another name", cfg.Name, ErrExists, id)
			}
		}
		if other, e := conn.LookupDomainByUUIDString(cfg.UUID); e == nil {
			defer other.Free()
			if name, e := other.GetName(); e == nil && name != cfg.Name {
				return fmt.Errorf("the id %s %w: container %q has it", cfg.UUID, ErrExists, name)
			}
		}
		return err
	}))
	return err
}

// Start starts a defined container and returns when libvirt has started it; WaitInit
// waits for its own init. One that runs is left alone, but not one whose end libvirt
// has not noticed. A *StartError says why libvirt could not start it.
func (h *Host) Start(ctx context.Context, id string) (Info, error) {
	for try := 1; ; try++ {
		info, fresh, err := h.create(ctx, id)
		if err != nil || try == startTries || watched(info.Name) && (fresh && heard(ctx, info) || !fresh && !info.unnoticed()) {
			return info, err
		}
		if err := h.Destroy(ctx, id); err != nil {
			return info, err
		}
	}
}

// create has libvirt start a container once; fresh says that it did not run before.
func (h *Host) create(ctx context.Context, id string) (info Info, fresh bool, err error) {
	type created struct {
		Info
		fresh bool
	}
	c, err := change(ctx, h, id, withDomain(id, func(dom *libvirt.Domain) (c created, err error) {
		if err = dom.Create(); err == nil {
			c.Info, err = identify(dom)
			c.State, c.Reason, c.fresh = Running, "booted", true
			return c, err
		}
		var lv libvirt.Error
		if disconnected(err) || !errors.As(err, &lv) || lv.Code == libvirt.ERR_NO_DOMAIN {
			return c, err
		}
		if lv.Code == libvirt.ERR_OPERATION_INVALID {
			if active, e := dom.IsActive(); e == nil && active {
				return c, nil
			}
		}
		failed := startError(id, lv.Message)
		if d, e := definition(dom); e == nil {
			failed.found(d.obstacle())
		}
		return c, errors.Join(failed, removeInterfaces(id))
	}))
	if err == nil && !c.fresh { // it may have been started since it was looked up
		c.Info, err = h.inspect(ctx, id)
	}
	return c.Info, c.fresh, err
}

// WaitInit waits until a container that Start started runs its own init, and neither
// libvirt's program nor lxcboot-init any more, and returns what it is then. An init
// that has ended at once is no failure: its container is in state Shutoff then. A
// *StartError says why an init could not be run, of which libvirt says nothing.
func (h *Host) WaitInit(ctx context.Context, info Info) (Info, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, execLimit, &StartError{ID: info.ID, Reason: fmt.Sprintf("its init did not come up within %s", execLimit)})
	defer cancel()
	for {
		if p, err := findInit(info.PID); err == nil {
			defer p.Close()
			switch up, err := p.waitTurned(ctx, info.PID); {
			case err != nil:
				return info, err
			case up:
				info.InitPID = p.pid
				return info, nil
			}
		}
		now, err := h.State(ctx, info.ID)
		if err == nil && now.Reason == Unnoticed {
			if err = h.Destroy(ctx, info.ID); err == nil {
				now, err = h.State(ctx, info.ID)
			}
		}
		if err != nil {
			return info, err
		}
		if !now.Active() {
			return now, h.whyEnded(ctx, info.ID)
		}
		if err := wait.For(ctx, poll); err != nil {
			return info, err
		}
	}
}

// whyEnded tells an init that ended at once, which is no failure, from one that
// could not be run, of which libvirt says nothing.
func (h *Host) whyEnded(ctx context.Context, id string) error {
	d, err := h.definition(ctx, id)
	if err != nil {
		return err
	}
	if why := d.initObstacle(); why != "" {
		return &StartError{ID: id, Reason: why}
	}
	return nil
}

// Undefine makes libvirt forget a container. One that it does not know is done.
func (h *Host) Undefine(ctx context.Context, id string) error {
	err := h.changeDomain(ctx, id, func(dom *libvirt.Domain) error {
		err := dom.Undefine()
		if isCode(err, libvirt.ERR_OPERATION_INVALID) { // transient: gone when it ends
			if persistent, e := dom.IsPersistent(); e == nil && !persistent {
				return nil
			}
		}
		return err
	})
	return ignore(err, ErrNotFound)
}

// Destroy kills a container and returns when its processes, cgroups and network
// interfaces are gone, so that what they held is free. One that is not running or not
// known is done.
func (h *Host) Destroy(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeoutCause(ctx, goneLimit, fmt.Errorf("container %s: its processes are still there after %s: one of them waits for a device or filesystem that does not answer", id, goneLimit))
	defer cancel()
	info, err := h.inspect(limited, id)
	if errors.Is(err, ErrNotFound) {
		return removeInterfaces(id)
	}
	if err != nil {
		return err
	}
	if info.Active() {
		if err := h.kill(limited, info); err != nil {
			return err
		}
	}
	return removeInterfaces(id)
}

// kill is Destroy for a container that runs.
func (h *Host) kill(ctx context.Context, info Info) error {
	remains := remainsOf(info)
	defer remains.Close()
	if p, err := findInit(info.PID); err == nil {
		defer p.killLater()()
	}
	for {
		err := h.domain(ctx, info.ID, func(dom *libvirt.Domain) error {
			err := dom.Destroy()
			// It ended by itself in between.
			if active, e := dom.IsActive(); e == nil && !active {
				return nil
			}
			return err
		})
		if err == nil || errors.Is(err, ErrNotFound) {
			break
		}
		if errors.Is(err, ErrNoDaemon) {
			return err
		}
		// "Some processes refused to die": they were killed, and may need a while.
		if e := wait.For(ctx, 10*poll); e != nil {
			return fmt.Errorf("%w (%v)", e, err)
		}
	}
	fault.Point("lxc/destroy/destroyed")
	return remains.wait(ctx)
}

// definition is what libvirt keeps of a container.
func (h *Host) definition(ctx context.Context, id string) (Domain, error) {
	return ask(ctx, h, id, withDomain(id, definition))
}

func definition(dom *libvirt.Domain) (Domain, error) {
	text, err := dom.GetXMLDesc(0)
	if err != nil {
		return Domain{}, err
	}
	return ParseDomain(text)
}

// waitOff waits until the container is off, or not known any more: libvirt takes note of its
// controller's end right after that.
func (h *Host) waitOff(ctx context.Context, id string) error {
	return wait.Until(ctx, time.Millisecond, poll, func() (bool, error) {
		info, err := h.State(ctx, id)
		if err != nil || info.State == Shutoff {
			return true, ignore(err, ErrNotFound)
		}
		controller, err := proc.Open(info.PID)
		if err != nil { // it has ended
			return false, nil
		}
		defer controller.Close()
		if !isController(info.PID, info.Name) { // the number is another's by now
			return false, nil
		}
		return false, proc.WaitEnd(ctx, controller)
	})
}

// ignore is nil for an error of a kind.
func ignore(err, kind error) error {
	if errors.Is(err, kind) {
		return nil
	}
	return err
}
