package connector

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/wait"
)

// claim waits until nothing on this host uses a disk of the kernel, and takes it: nobody
// can mount it then, or a partition of it, before it is closed. A disk that is not there
// is nil. After idleLimit the error is a *BusyError.
func (h *Host) claim(ctx context.Context, name string) (*os.File, error) {
	for until := time.Now().Add(idleLimit); ; {
		f, by, err := h.tryClaim(name)
		if by == "" || err != nil {
			return f, err
		}
		h.deactivate(ctx, name)
		if err := wait.For(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		if time.Now().After(until) {
			return nil, &BusyError{Path: h.fs("dev", name), By: by}
		}
	}
}

// tryClaim opens a disk for itself alone, or says what uses it. A mount, swap,
// device-mapper and md hold a disk or a partition so that the kernel refuses; a loop
// device does not.
func (h *Host) tryClaim(name string) (f *os.File, by string, err error) {
	if by := h.loopOn(name); by != "" {
		return nil, by, nil
	}
	f, err = os.OpenFile(h.fs("dev", name), os.O_RDONLY|unix.O_EXCL, 0)
	switch {
	case errors.Is(err, unix.EBUSY):
		return nil, h.userOf(name), nil
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENXIO), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOMEDIUM):
		return nil, "", nil
	}
	return f, "", err
}

// parts are the names of a disk and of its partitions, which for a device of multipathd's
// are devices of kpartx's.
func (h *Host) parts(name string) []string {
	all := []string{name}
	for _, p := range h.glob("sys/block/" + name + "/*/partition") {
		all = append(all, filepath.Base(filepath.Dir(p)))
	}
	for _, holder := range h.glob("sys/block/" + name + "/holders/*") {
		if holder = filepath.Base(holder); h.isPart(holder) {
			all = append(all, holder)
		}
	}
	return all
}

func (h *Host) isPart(name string) bool {
	return partUUID.MatchString(h.firstLine("sys/block", name, "dm/uuid"))
}

var partUUID = regexp.MustCompile(`^part[0-9]+-mpath-`)

// idle waits until no loop device stands on a file. After idleLimit the error is a
// *BusyError.
func idle(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, idleLimit)
	defer cancel()
	user := ""
	err := poll(ctx, "loop devices to go", func() (bool, error) {
		backings, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		user = ""
		for _, f := range backings {
			if b, err := os.ReadFile(f); err == nil && strings.TrimSuffix(string(b), "\n") == path {
				user = "/dev/" + strings.Split(f, "/")[3]
			}
		}
		return user == "", err
	})
	if user != "" {
		return &BusyError{Path: path, By: user}
	}
	return err
}

// loopOn is a loop device on a disk or on a partition of it; empty: there is none.
func (h *Host) loopOn(name string) string {
	parts := h.parts(name)
	for _, file := range h.glob("sys/block/loop*/loop/backing_file") {
		backing := strings.TrimSuffix(h.firstLine(file), " (deleted)")
		if filepath.Dir(backing) == "/dev" && slices.Contains(parts, filepath.Base(backing)) {
			return "/dev/" + strings.Split(file, "/")[2]
		}
	}
	return ""
}

// userOf is what the kernel knows of who uses a disk.
func (h *Host) userOf(name string) string {
	var numbers []string
	for _, part := range h.parts(name) {
		dir := filepath.Join("sys/class/block", part)
		numbers = append(numbers, h.firstLine(dir, "dev"))
		for _, holder := range h.glob(dir + "/holders/*") {
			if holder = filepath.Base(holder); !h.isPart(holder) {
				return h.mapped(holder)
			}
		}
		if swaps, err := os.Open(h.fs("proc/swaps")); err == nil {
			defer swaps.Close()
			for s := bufio.NewScanner(swaps); s.Scan(); {
				if strings.HasPrefix(s.Text(), "/dev/"+part+" ") {
					return "swap"
				}
			}
		}
	}
	mounts, _ := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		skip = !slices.Contains(numbers, fmt.Sprintf("%d:%d", m.Major, m.Minor))
		return skip, !skip
	})
	if len(mounts) > 0 {
		return "the mount " + mounts[0].Mountpoint
	}
	return "another program, or a mount of another namespace"
}

// mapped is the name that device-mapper's users know a device by.
func (h *Host) mapped(name string) string {
	if as := h.firstLine("sys/block", name, "dm/name"); as != "" {
		return "/dev/mapper/" + as
	}
	return "/dev/" + name
}

// deactivate has LVM let go of what it activated on a disk by itself because it saw a
// volume group on it, and kpartx of the partitions, unless that is in use. What cannot be
// deactivated still holds the disk, and is named.
func (h *Host) deactivate(ctx context.Context, name string) {
	parts := h.parts(name)
	for _, part := range parts {
		for _, holder := range h.glob(filepath.Join("sys/class/block", part, "holders/*")) {
			holder = filepath.Base(holder)
			if !strings.HasPrefix(h.firstLine("sys/block", holder, "dm/uuid"), "LVM-") {
				continue
			}
			group, err := h.o.Run(ctx, "lvs", "--noheadings", "-o", "vg_name", "--", h.mapped(holder))
			if group = strings.TrimSpace(group); err == nil && group != "" {
				_, _ = h.o.Run(ctx, "vgchange", "--quiet", "--activate", "n", "--", group)
			}
		}
	}
	if slices.ContainsFunc(parts, h.isPart) {
		_, _ = h.o.Run(ctx, "kpartx", "-d", h.fs("dev", name))
	}
}
