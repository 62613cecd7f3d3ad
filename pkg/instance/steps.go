package instance

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/proc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
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

// lastStep is what a whole boot reaches.
var lastStep = steps[len(steps)-1].name

// stepIndex is the place of a step in the table. One that is not in it is of another
// version of lxcboot: any of ours may have been begun.
func stepIndex(name Step) int {
	i := slices.IndexFunc(steps, func(s step) bool { return s.name == name })
	if i < 0 && name != StepNone {
		i = len(steps) - 1
	}
	return i
}

// walk does the steps from one to another, both included. That they may have been begun
// is on disk before they are; how far it really came, this process alone knows.
func (m *Manager) walk(ctx context.Context, h *Handle, from, to Step) error {
	if stepIndex(h.Reached) < stepIndex(to) {
		h.Reached = to
		if err := h.Save(); err != nil {
			return err
		}
	}
	for _, s := range steps[stepIndex(from) : stepIndex(to)+1] {
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

// unwalk undoes the steps from the last one begun back to the named one, and
// stops at the first that fails: what is left stays in the record.
func (m *Manager) unwalk(ctx context.Context, h *Handle, to Step) error {
	last := h.Reached
	if h.at != StepNone {
		last = h.at
	}
	for i := stepIndex(last); i >= stepIndex(to); i-- {
		if err := steps[i].undo(m, ctx, h); err != nil {
			return fmt.Errorf("cannot undo %q: %w", steps[i].name, err)
		}
		fault.Point("undone " + string(steps[i].name))
		h.Reached = StepNone
		if i > 0 {
			h.Reached = steps[i-1].name
		}
		h.at = h.Reached
		if err := h.Save(); err != nil {
			return err
		}
	}
	return nil
}

// prepareRoot mounts the root and every volume that has a mount path, and makes
// block devices of the other volumes.
func (m *Manager) prepareRoot(ctx context.Context, h *Handle) error {
	for i := range h.Volumes {
		v := &h.Volumes[i]
		target := m.Store.RootDir(h.ID)
		switch {
		case v.Mapping.Root():
		case v.Mapping.MountPath != "":
			target = m.Store.MountDir(h.ID, i)
		default:
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
	if err := m.checkMountpoints(h); err != nil {
		return err
	}
	return m.inject(h)
}

// checkMountpoints looks at the directories that libvirt mounts at, each in the
// filesystem that it is in.
func (m *Manager) checkMountpoints(h *Handle) error {
	dirs := map[string]string{"/": m.Store.RootDir(h.ID)} // by the path in the container
	for i, v := range h.Volumes {
		if v.Mapping.MountPath != "" {
			dirs[path.Clean(v.Mapping.MountPath)] = m.Store.MountDir(h.ID, i)
		}
	}
	targets := append(slices.Sorted(maps.Keys(dirs)), "/.oldroot", "/dev", "/proc", "/sys")
	for _, target := range targets {
		if target == "/" {
			continue
		}
		below := path.Dir(target)
		for dirs[below] == "" {
			below = path.Dir(below)
		}
		if err := m.Roots.CheckMountpoint(dirs[below], strings.TrimPrefix(target, below)); err != nil {
			return fmt.Errorf("cannot mount at %s in the container: %w", target, err)
		}
	}
	return nil
}

// inject writes the seed into the root, before the first start only: what the
// container makes of its files afterwards is its own.
func (m *Manager) inject(h *Handle) error {
	if h.Started || h.Spec.Seed.Empty() {
		return nil
	}
	if h.root().readOnly() {
		return errReadOnlyRoot
	}
	s := h.Spec.Seed
	s.InstanceID, s.Meta, s.NICs = h.ID, h.Meta, seedNICs(h.Spec.NICs)
	files, err := s.Render()
	if err != nil {
		return err
	}
	var ids *rootfs.IDMap
	if m := h.idMap(); m != nil {
		ids = &rootfs.IDMap{HostID: m.HostID, Count: m.Count}
	}
	for _, f := range files {
		if err := m.Roots.WriteFile(m.Store.RootDir(h.ID), rootfs.File{Path: f.Path, Data: f.Data, Mode: f.Mode}, ids); err != nil {
			return err
		}
		fault.Point("file injected")
	}
	return nil
}

func seedNICs(nics []lxc.Interface) (all []seed.NIC) {
	for _, n := range nics {
		s := seed.NIC{MAC: n.MAC}
		for _, a := range n.Addresses {
			s.Address, _ = netip.ParsePrefix(a)
		}
		s.Gateway, _ = netip.ParseAddr(n.Gateway)
		all = append(all, s)
	}
	return all
}

func (m *Manager) mount(ctx context.Context, h *Handle, v *VolumeRecord, target string) error {
	found, err := m.Roots.Probe(v.Device.Path)
	if err != nil {
		return err
	}
	// Once it was mounted, its journal may have to be replayed before a check is right.
	if h.Spec.Fsck && v.Filesystem == nil {
		if err := m.Roots.Check(ctx, v.Device.Path, found); err != nil {
			return err
		}
		fault.Point("filesystem checked")
	}
	v.Filesystem = &found
	opts, gid := rootfs.MountOptions{ReadOnly: v.readOnly()}, 0
	if ids := h.idMap(); ids != nil {
		opts.IDMap, gid = &rootfs.IDMap{HostID: ids.HostID, Count: ids.Count}, int(ids.HostID)
	}
	if err := m.Store.makeMountpoint(h.ID, target, gid); err != nil {
		return err
	}
	fault.Point("mountpoint made")
	return m.Roots.Mount(ctx, v.Device.Path, found, target, opts)
}

func (v *VolumeRecord) readOnly() bool {
	return v.Mapping.ReadOnly || (v.Device != nil && v.Device.ReadOnly) || (v.Filesystem != nil && v.Filesystem.ReadOnly)
}

// attachLoop gives a file-backed volume a loop device that stays until it is
// detached: nothing but the container's device node refers to it, so with
// autoclear it would vanish under the container. It is attached with autoclear
// all the same, which is taken off once the record knows the device: a process
// killed in between leaves nothing.
func (m *Manager) attachLoop(ctx context.Context, h *Handle, v *VolumeRecord) error {
	info, err := os.Stat(v.Device.Path)
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return nil
	}
	dev, held, err := m.Loops.Attach(ctx, v.Device.Path, loop.Options{ReadOnly: v.readOnly(), Autoclear: true})
	if err != nil {
		return err
	}
	defer held.Close()
	fault.Point("loop device made")
	v.Loop = &dev
	if err := h.Save(); err != nil {
		return err
	}
	fault.Point("loop device attached")
	return m.Loops.Keep(held)
}

func (m *Manager) releaseRoot(ctx context.Context, h *Handle) error {
	if err := m.releaseMounts(ctx, h); err != nil {
		return err
	}
	for i := range h.Volumes {
		v := &h.Volumes[i]
		if v.Loop == nil {
			continue
		}
		if err := m.Loops.Detach(*v.Loop); err != nil {
			return fmt.Errorf("loop device %s of volume %s is left: %w", v.Loop.Path, v.VolumeID, err)
		}
		fault.Point("loop device detached")
		v.Loop = nil
	}
	return nil
}

// conclude is what is left to do once the container runs, or has ended already: the host
// releases what it does not need any more while the record says that all went well. Both
// wait for the kernel, and a mount that a killed process leaves goes with the container.
func (m *Manager) conclude(ctx context.Context, h *Handle) error {
	if !h.domain.Active() {
		if err := m.releaseRoot(ctx, h); err != nil {
			return err
		}
		return h.finish()
	}
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

// releaseMounts unmounts on the host. A running container keeps its own copy of
// each mount, and the kernel frees the loop devices when that ends.
func (m *Manager) releaseMounts(_ context.Context, h *Handle) error {
	for i := range h.Volumes {
		target := m.Store.MountDir(h.ID, i)
		if h.Volumes[i].Mapping.Root() {
			target = m.Store.RootDir(h.ID)
		}
		if err := m.Roots.Unmount(target); err != nil {
			return err
		}
		fault.Point("filesystem unmounted")
		if err := m.Store.removeMountpoint(h.ID, target); err != nil {
			return err
		}
	}
	return nil
}

// startContainer starts the container and the process that keeps what it says, and
// returns once its init runs, or has ended.
func (m *Manager) startContainer(ctx context.Context, h *Handle) error {
	cfg, err := m.config(h)
	if err != nil {
		return err
	}
	if h.Undefined {
		// The rename may have been cut short before libvirt forgot the old name.
		if err := m.Domains.Undefine(ctx, h.ID); err != nil {
			return err
		}
	}
	if err := m.Domains.Define(ctx, cfg); err != nil {
		return err
	}
	fault.Point("domain defined")
	if h.domain, err = m.Domains.Start(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain started")
	h.Started, h.Undefined = true, false
	// What follows is done while the init comes up.
	rec := h.Record
	var keeper proc.Process
	err = together(h.Save, func() (err error) {
		if h.console, err = m.Consoles.Open(h.domain.PID); err != nil {
			return err
		}
		if keeper, err = h.console.Start(rec); err != nil {
			return err
		}
		fault.Point("console started")
		h.domain, err = m.Domains.WaitInit(ctx, h.domain)
		return err
	})
	h.Console = keeper
	return err
}

// config is the domain of an instance whose root is mounted.
func (m *Manager) config(h *Handle) (lxc.Config, error) {
	dir := m.Store.RootDir(h.ID)
	init, err := m.Roots.FindInit(dir, h.Spec.Init)
	if err != nil {
		return lxc.Config{}, err
	}
	_ = init
	cfg := h.container(dir)
	cfg.IDMap = h.idMap()
	for i := range h.Volumes {
		v := &h.Volumes[i]
		switch {
		case v.Mapping.Root():
		case v.Mapping.MountPath != "":
			cfg.Filesystems = append(cfg.Filesystems, lxc.Filesystem{Source: m.Store.MountDir(h.ID, i), Target: v.Mapping.MountPath, ReadOnly: v.readOnly()})
		default:
			cfg.Disks = append(cfg.Disks, v.disk())
		}
	}
	return cfg, nil
}

// container is the domain of an instance without what it has of this host, besides its
// root.
func (r *Record) container(root string) lxc.Config {
	return lxc.Config{
		UUID: r.ID, Name: r.Name, Description: r.Spec.Description,
		MemoryMiB: r.Spec.Flavor.MemoryMiB, VCPUs: r.Spec.Flavor.VCPUs,
		Root:       root, // a read-only root is mounted so: nothing in the container could change that
		Interfaces: r.Spec.NICs,
		SwapMiB:    r.Spec.SwapMiB,
		Launch:     filepath.Join(filepath.Dir(root), "launch"),
	}
}

// disk is the volume as the container has it.
func (v *VolumeRecord) disk() lxc.Disk {
	source := v.Device.Path
	if v.Loop != nil {
		source = v.Loop.Path
	}
	return lxc.Disk{Source: source, Target: v.Mapping.DeviceName, ReadOnly: v.readOnly()}
}

func (m *Manager) stopContainer(ctx context.Context, h *Handle) error {
	// A container that ran without its start having been recorded has run all
	// the same: what its volumes are worth is not for us to guess.
	info, err := m.Domains.State(ctx, h.ID)
	switch {
	case errors.Is(err, lxc.ErrNotFound):
		return m.stopConsole(ctx, h)
	case err != nil:
		return err
	case info.State == lxc.Running && !h.Started:
		h.Started = true
		if err := h.Save(); err != nil {
			return err
		}
	}
	if err := m.Domains.Destroy(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain destroyed")
	if err := m.stopConsole(ctx, h); err != nil {
		return err
	}
	fault.Point("console stopped")
	if h.Booted && h.Operation.Name != OpDelete {
		return nil
	}
	if err := m.Domains.Undefine(ctx, h.ID); err != nil {
		return err
	}
	fault.Point("domain undefined")
	return nil
}

// stopConsole ends the process that keeps the log, once its container has ended: its
// last words are in the log then. One whose id was lost ends by itself.
func (m *Manager) stopConsole(ctx context.Context, h *Handle) error {
	if err := m.Consoles.Stop(ctx, h.Console); err != nil {
		return err
	}
	h.Console = proc.Process{}
	return nil
}

// ignore makes nil of an error that says what undo wants to hear.
func ignore(err, target error) error {
	if errors.Is(err, target) {
		return nil
	}
	return err
}
