package lxc

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"time"

	"libvirt.org/go/libvirt"

	"github.com/lxcboot/lxcboot/pkg/console"
	"github.com/lxcboot/lxcboot/pkg/fault"
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
	ID         string `json:"id"`
	Name       string `json:"name"`
	State      string `json:"state"`             // Running, Shutoff, …
	Reason     string `json:"reason"`            // why it is in that state: booted, shutdown, destroyed, crashed, failed, …
	PID        int    `json:"pid,omitempty"`     // libvirt_lxc, the container's controller; 0 when not running
	InitPID    int    `json:"init_pid,omitzero"` // the container's first process, as the host numbers it
	Persistent bool   `json:"persistent"`
	Autostart  bool   `json:"autostart"`
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
	var info Info
	err := h.domain(ctx, id, func(dom *libvirt.Domain) (err error) {
		info, err = inspect(dom)
		return err
	})
	return info, err
}

// ByName gives the container whose domain has a name, or ErrNotFound.
func (h *Host) ByName(ctx context.Context, name string) (Info, error) {
	var info Info
	err := h.call(ctx, fmt.Sprintf("named %q", name), func(conn *libvirt.Connect) error {
		dom, err := conn.LookupDomainByName(name)
		if err != nil {
			return err
		}
		defer dom.Free()
		info, err = inspect(dom)
		return err
	})
	if err != nil {
		return info, err
	}
	return h.settle(ctx, info)
}

// List gives all containers that libvirt knows, also those that others made.
func (h *Host) List(ctx context.Context) ([]Info, error) {
	var list []Info
	err := h.call(ctx, h.uri, func(conn *libvirt.Connect) error {
		list = nil
		doms, err := conn.ListAllDomains(0)
		if err != nil {
			return err
		}
		for i := range doms {
			info, err := inspect(&doms[i])
			doms[i].Free()
			if err != nil && !isCode(err, libvirt.ERR_NO_DOMAIN) { // it may have gone meanwhile
				return err
			}
			if err == nil {
				list = append(list, info)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	settled := list[:0]
	for _, info := range list {
		switch info, err := h.settle(ctx, info); {
		case err == nil:
			settled = append(settled, info)
		case !errors.Is(err, ErrNotFound):
			return nil, err
		}
	}
	return settled, nil
}

func inspect(dom *libvirt.Domain) (info Info, err error) {
	if info, err = identify(dom); err != nil {
		return info, err
	}
	state, reason, err := dom.GetState()
	if err != nil {
		return info, err
	}
	info.State, info.Reason = stateWords(state, reason)
	if info.Persistent, err = dom.IsPersistent(); err != nil {
		return info, err
	}
	if info.Persistent {
		if info.Autostart, err = dom.GetAutostart(); err != nil {
			return info, err
		}
	}
	switch {
	case state == libvirt.DOMAIN_SHUTOFF || state == libvirt.DOMAIN_CRASHED:
		info.PID = 0
	case info.PID == 0: // it was started since it was looked up
		info.State, info.Reason = Shutoff, "unknown"
	default:
		if p, err := findInit(info.PID); err == nil {
			info.InitPID = p.pid
			p.Close()
		}
	}
	return info, nil
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
	return h.change(ctx, cfg.Name, func(conn *libvirt.Connect) error {
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
	})
}

// Start starts a defined container and returns when libvirt has started it; WaitInit
// waits for its own init. One that runs is left alone, but not one whose end libvirt
// has not noticed. A *StartError says why libvirt could not start it.
func (h *Host) Start(ctx context.Context, id string) (Info, error) {
	for try := 1; ; try++ {
		info, fresh, err := h.create(ctx, id)
		if err != nil || try == startTries || watched(info.Name) && (fresh || !info.unnoticed()) {
			return info, err
		}
		if err := h.end(ctx, id); err != nil {
			return info, err
		}
	}
}

// create has libvirt start a container once; fresh says that it did not run before.
func (h *Host) create(ctx context.Context, id string) (info Info, fresh bool, err error) {
	err = h.changeDomain(ctx, id, func(dom *libvirt.Domain) (err error) {
		if err = dom.Create(); err == nil {
			info, err = identify(dom)
			info.State, info.Reason, info.Persistent, fresh = Running, "booted", true, true
			return err
		}
		var lv libvirt.Error
		if disconnected(err) || !errors.As(err, &lv) || lv.Code == libvirt.ERR_NO_DOMAIN {
			return err
		}
		if lv.Code == libvirt.ERR_OPERATION_INVALID {
			if active, e := dom.IsActive(); e == nil && active {
				return nil
			}
		}
		return errors.Join(startError(id, lv.Message), removeInterfaces(id))
	})
	if err == nil && !fresh { // it may have been started since it was looked up
		info, err = h.inspect(ctx, id)
	}
	return info, fresh, err
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
		if err := pause(ctx, poll); err != nil {
			return info, err
		}
	}
}

// whyEnded tells an init that ended at once, which is no failure, from one that
// could not be run, of which libvirt says nothing.
func (h *Host) whyEnded(ctx context.Context, id string) error {
	var desc struct {
		Filesystems []struct {
			Source struct {
				Dir string `xml:"dir,attr"`
			} `xml:"source"`
			Target struct {
				Dir string `xml:"dir,attr"`
			} `xml:"target"`
		} `xml:"devices>filesystem"`
	}
	err := h.domain(ctx, id, func(dom *libvirt.Domain) error {
		text, err := dom.GetXMLDesc(0)
		if err != nil {
			return err
		}
		return xml.Unmarshal([]byte(text), &desc)
	})
	if err != nil {
		return err
	}
	var init, root string
	for _, fs := range desc.Filesystems {
		switch fs.Target.Dir {
		case "/":
			root = fs.Source.Dir
		case launchTarget:
			init = launchedInit(fs.Source.Dir)
		}
	}
	dir, err := os.Open(root)
	if err != nil || init == "" {
		return nil
	}
	defer dir.Close()
	if why := unrunnable(dir, init); why != "" {
		return &StartError{ID: id, Reason: fmt.Sprintf("its init %s cannot be run: %s", console.Clean(init), why)}
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
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// SetAutostart says whether libvirtd starts the container when it starts itself.
func (h *Host) SetAutostart(ctx context.Context, id string, on bool) error {
	return h.changeDomain(ctx, id, func(dom *libvirt.Domain) error { return dom.SetAutostart(on) })
}

// Autostart tells what SetAutostart set.
func (h *Host) Autostart(ctx context.Context, id string) (on bool, err error) {
	err = h.domain(ctx, id, func(dom *libvirt.Domain) (err error) {
		on, err = dom.GetAutostart()
		return err
	})
	return on, err
}

// Destroy kills a container and returns when its processes, cgroups and network
// interfaces are gone, so that what they held is free. One that is not running or not
// known is done.
func (h *Host) Destroy(ctx context.Context, id string) error {
	if err := h.end(ctx, id); err != nil {
		return err
	}
	return removeOwnGroup(id)
}

// end is Destroy of a container that is to be started again: what was made for its start
// stays.
func (h *Host) end(ctx context.Context, id string) error {
	limited, cancel := context.WithTimeoutCause(ctx, goneLimit, fmt.Errorf("container %s: its processes are still there after %s: one of them waits for a device or filesystem that does not answer", id, goneLimit))
	defer cancel()
	info, err := h.inspect(limited, id)
	if errors.Is(err, ErrNotFound) || err == nil && !info.Active() {
		return removeInterfaces(id)
	}
	if err != nil {
		return err
	}
	remains := remainsOf(info)
	defer remains.Close()
	if p, err := findInit(info.PID); err == nil {
		defer p.killLater()()
	}
	for {
		err = h.domain(limited, id, func(dom *libvirt.Domain) error {
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
		if e := pause(limited, 10*poll); e != nil {
			return fmt.Errorf("%w (%v)", e, err)
		}
	}
	fault.Point("lxc/destroy/destroyed")
	if err := remains.wait(limited); err != nil {
		return err
	}
	return removeInterfaces(id)
}

// WaitState waits until the container is in a state, and gives it. A container
// that libvirt does not know any more is in state Shutoff.
func (h *Host) WaitState(ctx context.Context, id, state string) (Info, error) {
	for {
		info, err := h.State(ctx, id)
		if errors.Is(err, ErrNotFound) && state == Shutoff {
			return Info{ID: id, State: Shutoff}, nil
		}
		if err != nil || info.State == state {
			return info, err
		}
		if err := pause(ctx, 5*poll); err != nil {
			return info, err
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
