package connector

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/fault"
)

// multipathd says whether the daemon runs that makes one device of a disk's paths.
func (h *Host) multipathd(ctx context.Context) bool {
	_, err := h.o.Run(ctx, "multipathd", "show", "status")
	return err == nil
}

// mapOf is the multipath map that a disk is a path of: dm-N; empty: of none.
func (h *Host) mapOf(disk string) string {
	for _, holder := range h.glob(filepath.Join("sys/block", disk, "holders/dm-*")) {
		if name := filepath.Base(holder); strings.HasPrefix(h.firstLine("sys/block", name, "dm/uuid"), "mpath-") {
			return name
		}
	}
	return ""
}

// assemble has multipathd make one device of a disk's paths, and gives its name, dm-N.
// Empty: it does not, because it does not run, or is configured so. Of a single path it
// makes one only where it is configured so.
func (h *Host) assemble(ctx context.Context, paths []scsiDisk) (string, error) {
	if !h.multipathd(ctx) {
		return "", nil
	}
	dev := h.fs("dev", paths[0].Name)
	if len(paths) > 1 {
		// Two paths are not enough for it by themselves: it has to know the disk's id.
		if _, err := h.o.Run(ctx, "multipath", "-a", dev); err != nil {
			return "", nil
		}
		fault.Point("connector/multipath/added")
	} else if _, err := h.o.Run(ctx, "multipath", "-c", dev); err != nil {
		return "", nil
	}
	limited, cancel := context.WithTimeout(ctx, deviceLimit)
	defer cancel()
	name, blacklisted := "", false
	var asked time.Time
	err := poll(limited, "multipathd to make its device", func() (bool, error) {
		name = h.mapOf(paths[0].Name)
		all := name != ""
		for _, p := range paths {
			if m := h.mapOf(p.Name); m == "" || m != name {
				all = false
			}
		}
		if all || time.Since(asked) < time.Second {
			return all, nil
		}
		// It takes a path only once udev is done with it.
		for _, p := range paths {
			says, _ := h.o.Run(limited, "multipathd", "add", "path", p.Name)
			blacklisted = blacklisted || strings.Contains(says, "blacklisted")
		}
		asked = time.Now()
		return blacklisted, nil
	})
	switch {
	case ctx.Err() != nil:
		return "", err
	case name == "" && len(paths) > 1:
		_, _ = h.o.Run(ctx, "multipath", "-w", dev)
	}
	return name, nil // also one without all paths, rather than none
}

// removeDisks flushes a disk and takes all paths to it off the kernel, first the map that
// multipathd made of them.
func (h *Host) removeDisks(ctx context.Context, paths []scsiDisk, readOnly bool) error {
	for _, p := range paths {
		now, err := h.scsiDiskAt(p.HCTL)
		if err != nil || now == nil || now.WWID != p.WWID {
			continue
		}
		if m := h.mapOf(now.Name); m != "" {
			if err := h.removeMap(ctx, m, readOnly); err != nil {
				return err
			}
		}
	}
	for _, p := range paths {
		if err := h.removeDisk(ctx, p, readOnly); err != nil {
			return err
		}
	}
	return nil
}

// removeMap flushes a multipath map and takes it apart. multipathd makes no other of its
// paths, which it forgets.
func (h *Host) removeMap(ctx context.Context, name string, readOnly bool) error {
	uuid := h.firstLine("sys/block", name, "dm/uuid")
	claimed, err := h.claim(ctx, name)
	if err != nil {
		return err
	}
	claimed.Close() // or it could not be removed
	if claimed != nil && !readOnly {
		if err := h.flushApart(ctx, h.fs("dev", name)); err != nil {
			return fmt.Errorf("%w: %v; bring the storage back and try again", ErrNotFlushed, err)
		}
	}
	fault.Point("connector/multipath/flushed")
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	var failed error
	err = poll(ctx, "multipathd to let go of "+name, func() (bool, error) {
		if h.firstLine("sys/block", name, "dm/uuid") != uuid {
			return true, nil
		}
		_, failed = h.o.Run(ctx, "multipath", "-f", filepath.Base(h.mapped(name)))
		return false, nil
	})
	if err != nil {
		return errors.Join(err, failed)
	}
	_, err = h.o.Run(ctx, "multipath", "-w", strings.TrimPrefix(uuid, "mpath-"))
	return err
}
