package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inroot"
)

// Selection says which filesystem of a device is the one. The zero Selection is what Probe
// finds, and of a btrfs the subvolume that is its default.
type Selection struct {
	Partition string // its number, or PartitionRoot
	Subvolume string // of a btrfs: its path from the top, or SubvolumeAuto
}

// The words that a Selection may have.
const (
	// PartitionRoot is the partition whose type in a GPT is that of a root for this machine
	// (the Discoverable Partitions Specification), else the only one with an init. Where no
	// subvolume is asked for, that of a btrfs is chosen so, too: its default one, else the first
	// of root and @, else the only one that has an init.
	PartitionRoot = "root"
	// SubvolumeAuto is the first of root, @ and the default subvolume that has an init. What
	// is no btrfs has none to choose.
	SubvolumeAuto = "auto"
)

// rootSubvolumes are what distributions call the subvolume of the root.
var rootSubvolumes = []string{"root", "@"}

// rootTypes are the types of a root in a GPT, by GOARCH.
var rootTypes = map[string]string{
	"amd64": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
	"arm64": "B921B045-1DF0-41C3-AF44-4C6F280D3FAE",
}

// Select is Probe for a Selection. Errors wrap what Probe's do. The error of a device on
// which Probe looks in vain names what has an init, and how to select it.
func Select(ctx context.Context, device string, s Selection) (Filesystem, error) {
	var fsys Filesystem
	var err error
	switch s.Partition {
	case "":
		fsys, err = Probe(device)
		if errors.Is(err, ErrNoFilesystem) {
			return fsys, withHint(err, Hint(ctx, device, Filesystem{}))
		}
	case PartitionRoot:
		fsys, err = rootPartition(ctx, device, s.Subvolume != "")
	default:
		var n int
		if n, err = strconv.Atoi(s.Partition); err != nil || n < 1 {
			return fsys, failure.Invalid("the partition %q is neither a number from 1 nor %s", s.Partition, PartitionRoot)
		}
		fsys, err = probePartition(device, n)
	}
	if err != nil {
		return fsys, err
	}
	if fsys.Type != "btrfs" {
		if s.Subvolume != "" && s.Subvolume != SubvolumeAuto {
			return Filesystem{}, failure.Of(ErrNoFilesystem, "%s: subvolume=%s is for a btrfs, and there is %s", device, s.Subvolume, article(fsys.Type))
		}
		return fsys, nil
	}
	if s.Subvolume != "" {
		fsys.Subvolume, err = subvolume(ctx, device, fsys, s.Subvolume)
	}
	return fsys, err
}

// rootPartition finds the partition that is the root by what it is; without a partition
// table that is what Probe finds. The subvolume may be chosen elsewhere.
func rootPartition(ctx context.Context, device string, elsewhere bool) (Filesystem, error) {
	all, err := partitions(device)
	if err != nil {
		return Filesystem{}, err
	}
	if len(all) == 0 {
		return Probe(device)
	}
	var typed []partition
	for _, p := range all {
		if id, _, _ := strings.Cut(p.Type, ","); id != "" && id == rootTypes[runtime.GOARCH] {
			typed = append(typed, p)
		}
	}
	if len(typed) > 1 {
		return Filesystem{}, failure.Of(ErrAmbiguous, "%s: partitions %s all have the type of a root; name one, as in partition=%d", device, numbers(typed), typed[0].Number)
	}
	if len(typed) == 1 {
		all = typed
	}
	with, unseen := withInit(ctx, device, all)
	if elsewhere {
		with = slices.CompactFunc(with, func(a, b Filesystem) bool { return a.Partition == b.Partition })
	} else {
		with = slices.DeleteFunc(slices.Clone(with), func(f Filesystem) bool { return behind(f, with) })
	}
	switch {
	case len(with) == 1:
		return with[0], nil
	case len(with) > 1:
		return Filesystem{}, failure.Of(ErrAmbiguous, "%s: %s and %s both have an init; name one, as in %s", device, with[0].String(), with[1].String(), with[0].keys())
	case len(typed) == 1:
		return probePartition(device, typed[0].Number)
	case unseen != nil:
		return Filesystem{}, fmt.Errorf("%s: no partition with an init was found, and not all could be looked at: %w", device, unseen)
	}
	return Filesystem{}, &NotFoundError{Where: device, Found: "no partition with an init, and none of the type of a root", Mend: "name one by its number, as in partition=2; it has " + numbers(all)}
}

// behind says whether another subvolume beside one is called as that of a root is.
func behind(f Filesystem, all []Filesystem) bool {
	for _, name := range rootSubvolumes {
		if f.Subvolume == name {
			return false
		}
		if slices.ContainsFunc(all, func(a Filesystem) bool { return a.Partition == f.Partition && a.Subvolume == name }) {
			return true
		}
	}
	return false
}

// partitions are the used partitions of a device that hold no others.
func partitions(device string) (all []partition, err error) {
	err = onImage(device, func(r io.ReaderAt, size int64, sector int) error {
		t, err := readTable(r, size, sector, anyPartition)
		if err == nil && t != nil {
			all = t.used
			slices.SortFunc(all, func(a, b partition) int { return a.Number - b.Number })
		}
		return err
	})
	return all, err
}

// withInit are the filesystems on partitions, and their subvolumes, that have an init. The
// error is of those that could not be mounted to look, beside what the others have.
func withInit(ctx context.Context, device string, all []partition) (with []Filesystem, unseen error) {
	for _, p := range all {
		if fsys, err := probePartition(device, p.Number); err == nil {
			found, err := inits(ctx, device, fsys)
			with = append(with, found...)
			if err != nil {
				unseen = errors.Join(unseen, fmt.Errorf("%v: %w", fsys, err))
			}
		}
	}
	return with, unseen
}

// inits are the filesystem, where it has an init, or else its subvolumes that do.
func inits(ctx context.Context, device string, fsys Filesystem) (with []Filesystem, err error) {
	err = look(ctx, device, fsys, func(root *os.File) error {
		if hasInit(root) {
			with = append(with, fsys)
		}
		return nil
	})
	if len(with) > 0 || fsys.Type != "btrfs" {
		return with, err
	}
	err = look(ctx, device, fsys.top(), func(top *os.File) error {
		for _, name := range subvolumes(top) {
			if sub, err := inroot.OpenDirect(top, name, unix.O_PATH|unix.O_DIRECTORY); err == nil {
				if hasInit(sub) {
					f := fsys
					f.Subvolume = name
					with = append(with, f)
				}
				sub.Close()
			}
		}
		return nil
	})
	return with, err
}

// Hint names the filesystems of a device that have an init, but for the one that was looked
// at, with the keys that select them; empty: there are none.
func Hint(ctx context.Context, device string, looked Filesystem) string {
	all, err := partitions(device)
	if err != nil {
		return ""
	}
	with, _ := withInit(ctx, device, all)
	if looked.Type == "btrfs" {
		own, _ := inits(ctx, device, looked)
		with = append(own, slices.DeleteFunc(with, func(f Filesystem) bool { return f.Partition == looked.Partition })...)
	}
	var words []string
	for _, f := range with {
		if f.Partition != looked.Partition || f.Subvolume != looked.Subvolume || looked.Type == "" {
			words = append(words, fmt.Sprintf("%s has an init: add %s", f.String(), f.keys()))
		}
	}
	return strings.Join(words, "; ")
}

// withHint puts a hint in the place of an error's own.
func withHint(err error, hint string) error {
	var none *NotFoundError
	if hint == "" || !errors.As(err, &none) {
		return err
	}
	return &NotFoundError{Where: none.Where, Found: none.Found, Mend: hint, Blank: none.Blank}
}

// String names a filesystem for people.
func (fsys Filesystem) String() string {
	what := fsys.Type
	if fsys.Label != "" {
		what += fmt.Sprintf(", label %q", fsys.Label)
	}
	switch {
	case fsys.Partition == 0 && fsys.Subvolume == "":
		return "the filesystem over the whole device (" + what + ")"
	case fsys.Partition == 0:
		return fmt.Sprintf("its subvolume %s (%s)", fsys.Subvolume, what)
	case fsys.Subvolume == "":
		return fmt.Sprintf("partition %d (%s)", fsys.Partition, what)
	}
	return fmt.Sprintf("subvolume %s of partition %d (%s)", fsys.Subvolume, fsys.Partition, what)
}

// keys are the keys of a block device spec that select a filesystem.
func (fsys Filesystem) keys() string {
	var all []string
	if fsys.Partition != 0 {
		all = append(all, fmt.Sprint("partition=", fsys.Partition))
	}
	if fsys.Subvolume != "" {
		all = append(all, "subvolume="+fsys.Subvolume)
	}
	return strings.Join(all, ",")
}

// top is a btrfs from its top, whatever its default subvolume is.
func (fsys Filesystem) top() Filesystem {
	fsys.Subvolume = "/"
	return fsys
}

// look mounts a filesystem for a moment, read-only and in no place of the tree.
func look(ctx context.Context, device string, fsys Filesystem, do func(root *os.File) error) error {
	return unseen(ctx, device, fsys, true, do)
}

// hasInit says whether a root has one of Inits.
func hasInit(root *os.File) bool {
	return slices.ContainsFunc(Inits, func(init string) bool { return executable(root, init) == nil })
}
