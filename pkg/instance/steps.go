package instance

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/state"
)

// Step is a row of the step table, in the order of boot.
type Step string

// The steps of a boot. StepNone is before the first.
const (
	StepNone   Step = ""
	StepCreate Step = "create volumes"
	StepAttach Step = "attach volumes"
	StepRoot   Step = "prepare the root"
	StepStart  Step = "start the container"
)

// step is a row of the step table. Both functions read what they need from the
// record alone; undo takes "not there" as done and may be called for a step that
// was begun, done, or undone before.
type step struct {
	name Step
	do   func(*Manager, context.Context, *Handle) error
	undo func(*Manager, context.Context, *Handle) error
}

// steps is the step table: boot walks it down, a failed boot and delete walk it
// up. The steps from StepRoot on are what stop undoes and start does again.
var steps = []step{
	{StepCreate, (*Manager).createVolumes, (*Manager).deleteVolumes},
	{StepAttach, (*Manager).attachVolumes, (*Manager).detachVolumes},
	{StepRoot, (*Manager).prepareRoot, (*Manager).releaseRoot},
	{StepStart, (*Manager).startContainer, (*Manager).stopContainer},
}

// stepIndex is the place of a step in the table.
func stepIndex(name Step) int {
	return slices.IndexFunc(steps, func(s step) bool { return s.name == name })
}

// walk does the steps from one to the last. The record says before that they may have
// been begun (its phase, or its operation); how far it really came, this process knows.
func (m *Manager) walk(ctx context.Context, h *Handle, from Step) error {
	for _, s := range steps[stepIndex(from):] {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		h.at = s.name
		fault.Point("begin " + string(s.name))
		if err := s.do(m, ctx, h); err != nil {
			return fmt.Errorf("cannot %s: %w", s.name, err)
		}
		fault.Point("done " + string(s.name))
	}
	return nil
}

// unwalk undoes the steps back to the named one, from the one that this process has come
// to, else from the last: any may have been begun. It stops at the first that fails:
// what is left stays in the record.
func (m *Manager) unwalk(ctx context.Context, h *Handle, to Step) error {
	last := len(steps) - 1
	if h.at != StepNone {
		last = stepIndex(h.at)
	}
	for i := last; i >= stepIndex(to); i-- {
		if err := steps[i].undo(m, ctx, h); err != nil {
			return fmt.Errorf("cannot undo %q: %w", steps[i].name, err)
		}
		fault.Point("undone " + string(steps[i].name))
		if err := h.SaveUndone(); err != nil {
			return err
		}
	}
	return nil
}

// prepareRoot mounts the root and every volume that has a mount path, makes block
// devices of the other volumes, and puts beside it what is to run first.
func (m *Manager) prepareRoot(ctx context.Context, h *Handle) error {
	if err := m.makeRunDir(h); err != nil {
		return err
	}
	for i := range h.Volumes {
		v := &h.Volumes[i]
		target := m.target(&h.Record, v)
		if target == "" {
			if err := m.attachLoop(ctx, h, v); err != nil {
				return err
			}
			continue
		}
		if err := m.mount(ctx, h, v, target); err != nil {
			return fmt.Errorf("volume %s: %w", v.VolumeID, err)
		}
		fault.Point("filesystem mounted")
	}
	if err := m.overlay(h); err != nil {
		return err
	}
	if err := m.checkMountpoints(h); err != nil {
		return err
	}
	if err := m.inject(h); err != nil {
		return err
	}
	return m.launch(ctx, h)
}

func (m *Manager) makeRunDir(h *Handle) error {
	gid := 0
	if ids := h.IDMap(); ids != nil {
		gid = int(ids.HostID)
	}
	return m.Store.MakeRunDir(h.ID, gid)
}

// target is where a volume is mounted on the host; empty for a block device.
func (m *Manager) target(r *state.Record, v *state.Volume) string {
	switch {
	case v.Mapping.Root():
		return m.Store.RootDir(r.ID)
	case v.Mapping.Upper:
		return m.Store.UpperDir(r.ID)
	case v.Mapping.MountPath != "":
		return m.Store.MountDir(r.ID, v.Mapping.DeviceName)
	}
	return ""
}

// launch puts lxcboot-init, and what it is told, where libvirt's definition has it.
func (m *Manager) launch(ctx context.Context, h *Handle) error {
	root := m.Store.RootDir(h.ID)
	init, err := m.Roots.FindInit(root, h.Spec.Init)
	if err == nil {
		err = m.Kernel.CheckInit(root, init)
	}
	if err != nil {
		return m.elsewhere(ctx, h, err)
	}
	dir := m.Store.LaunchDir(h.ID)
	if err := m.Store.MakeMountpoint(dir); err != nil {
		return err
	}
	group, err := m.Kernel.MakeGroups(ctx, h.ID, h.IDMap(), h.Limits())
	if err != nil {
		return err
	}
	return m.Kernel.Launch(dir, lxc.Launch{Group: group, Init: init, Args: h.Spec.InitArgs, Env: h.Spec.Env, Hostname: h.Spec.Hostname,
		Privileged: h.Spec.Privileged, Unfiltered: h.Spec.Unfiltered})
}

// elsewhere adds to an error in finding an init where it was looked for, and what has one.
func (m *Manager) elsewhere(ctx context.Context, h *Handle, err error) error {
	v := h.Root()
	if !errors.Is(err, rootfs.ErrNoInit) || h.Spec.Init != "" || v == nil || v.Filesystem == nil {
		return err
	}
	err = fmt.Errorf("%s: %w", v.Filesystem, err)
	// What is mounted is not looked at a second time; and the start has failed.
	if left := m.releaseMounts(ctx, h); left != nil {
		return errors.Join(err, left)
	}
	if hint := m.Roots.Hint(ctx, v.Device.Path, *v.Filesystem); hint != "" {
		err = fmt.Errorf("%w; %s", err, hint)
	}
	return err
}

func (m *Manager) releaseRoot(ctx context.Context, h *Handle) error {
	if err := m.restore(ctx, h); err != nil {
		return err
	}
	if err := m.releaseMounts(ctx, h); err != nil {
		return err
	}
	m.mendEach(ctx, h)
	for i := range h.Volumes {
		if err := m.detachLoop(h, &h.Volumes[i]); err != nil {
			return err
		}
	}
	// libvirt's controller can outlive the init, and is in them until it is ended.
	if h.live.Controller == 0 {
		if err := m.Kernel.RemoveGroups(ctx, h.ID); err != nil {
			return err
		}
	}
	// Only a process that was killed leaves it without anything in it.
	return m.Store.RemovePath(h.ID, m.Store.RootDir(h.ID))
}

// conclude is what is left to do once the container runs, or has ended already: the host
// releases what it does not need any more while the record says that all went well. Both
// wait for the kernel, and a mount that a killed process leaves goes with the container. One
// that ends at once has ended when this returns.
func (m *Manager) conclude(ctx context.Context, h *Handle) error {
	if !h.domain.Active() {
		if err := m.releaseRoot(ctx, h); err != nil {
			return err
		}
		return h.finish()
	}
	controller := h.live.Controller
	var watch sync.WaitGroup
	watch.Go(func() { m.Kernel.WaitStart(controller) })
	defer watch.Wait()
	return together(h.finish, func() error { return m.releaseMounts(ctx, h) })
}

// together saves while something else is done, which must leave the record alone.
func together(save, do func() error) error {
	var saving sync.WaitGroup
	var saved error
	saving.Go(func() { saved = save() })
	err := func() error {
		defer saving.Wait()
		return do()
	}()
	return errors.Join(err, saved)
}

// startContainer starts the container and the process that keeps what it says, and
// returns once its init runs, or has ended. The init is held until its terminal is.
func (m *Manager) startContainer(ctx context.Context, h *Handle) (err error) {
	if h.gate, err = m.Kernel.Hold(m.Store.LaunchDir(h.ID)); err != nil {
		return err
	}
	if err := m.Domains.Define(ctx, m.config(&h.Record)); err != nil {
		return err
	}
	fault.Point("domain defined")
	if h.domain, err = m.Domains.Start(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain started")
	if err := m.look(h); err != nil {
		return err
	}
	if h.console, err = m.Consoles.Open(h.live); err != nil {
		return err
	}
	if err := m.Kernel.Finish(h.ID, h.live.Init, h.Spec.NICs); err != nil {
		return err
	}
	h.gate.Release() // its end is seen by now, and with it its exit status
	h.Ran, h.Exit, h.BootID = true, nil, m.Host.BootID
	// What follows is done while the init comes up.
	keeper := h.Console
	err = together(h.Save, func() (err error) {
		if keeper, err = h.console.Start(h.ID, h.claimed); err != nil {
			return err
		}
		fault.Point("console started")
		h.domain, err = m.Domains.WaitInit(ctx, h.domain)
		return err
	})
	h.Console = keeper
	return err
}

// config is an instance's domain. It names nothing but paths of the instance's own, so
// that it stays good whatever the host's devices are called.
func (m *Manager) config(r *state.Record) lxc.Config {
	cfg := container(r, m.Store.RootDir(r.ID))
	cfg.IDMap, cfg.Launch = r.IDMap(), m.Store.LaunchDir(r.ID)
	for i := range r.Volumes {
		v := &r.Volumes[i]
		switch {
		case v.Mapping.Root(), v.Mapping.Upper:
		case v.Mapping.MountPath != "":
			cfg.Filesystems = append(cfg.Filesystems, lxc.Filesystem{Source: m.Store.MountDir(r.ID, v.Mapping.DeviceName), Target: v.Mapping.MountPath, ReadOnly: v.ReadOnly()})
		default:
			cfg.Disks = append(cfg.Disks, m.disk(r, v))
		}
	}
	return cfg
}

// container is the domain of an instance without what it has of this host, besides its
// root.
func container(r *state.Record, root string) lxc.Config {
	return lxc.Config{
		UUID: r.ID, Name: r.Name, Description: r.Spec.Description,
		MemoryMiB: r.Spec.Flavor.MemoryMiB, VCPUs: r.Spec.Flavor.VCPUs,
		Root:       root, // a read-only root is mounted so: nothing in the container could change that
		Interfaces: r.Spec.NICs,
		SwapMiB:    r.Spec.SwapMiB,
	}
}

// disk is the volume as the container has it.
func (m *Manager) disk(r *state.Record, v *state.Volume) lxc.Disk {
	return lxc.Disk{Source: m.Store.DeviceLink(r.ID, v.Mapping.DeviceName), Target: v.Mapping.DeviceName, ReadOnly: v.ReadOnly()}
}

func (m *Manager) stopContainer(ctx context.Context, h *Handle) error {
	if err := m.Domains.Destroy(ctx, h.ID); err != nil {
		return err
	}
	h.live = lxc.Live{}
	fault.Point("domain destroyed")
	if err := m.stopConsole(ctx, h); err != nil {
		return err
	}
	fault.Point("console stopped")
	if h.Phase == state.Built {
		return nil
	}
	if err := m.Domains.Undefine(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain undefined")
	return nil
}

// stopConsole ends the process that keeps the log, once its container has ended: its
// last words are in the log then, and how the init ended it hands in later. One whose id was lost ends by itself.
func (m *Manager) stopConsole(ctx context.Context, h *Handle) error {
	h.letGo()
	if m.hasConsole(&h.Record) {
		if err := m.Consoles.Stop(ctx, h.ID, h.Console); err != nil {
			return err
		}
	}
	if h.Console != (proc.Process{}) {
		h.Console, h.Former = proc.Process{}, h.Console
	}
	return nil
}

// ignore makes nil of an error that says what undo wants to hear.
func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
