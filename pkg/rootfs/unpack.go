package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/inroot"
	"github.com/lxcboot/lxcboot/pkg/loop"
)

// unpackLimit bounds how long an archive may take.
const unpackLimit = time.Hour

// Unpack makes an ext4 of a whole file, at this path, and unpacks an archive of the tree of
// a root into it, with owners, modes, extended attributes and ACLs as they are there: an
// uncompressed tar archive, which is read from where the file stands. Nothing is written but
// in that ext4, which is mounted nowhere in the tree. An archive that is none, or does not
// fit, is failure.ErrInvalid. The hint says what is wrong with a tree that has no init;
// empty: it has one.
func Unpack(ctx context.Context, archive *os.File, path string) (hint string, err error) {
	if err := Format(ctx, path, "ext4"); err != nil {
		return "", err
	}
	fsys, err := Probe(path)
	if err != nil {
		return "", err
	}
	err = unseen(ctx, path, fsys, false, func(mnt *os.File) error {
		root, err := inroot.Open(mnt, ".", unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer root.Close()
		if err := untar(ctx, archive, root); err != nil {
			return err
		}
		hint = noInit(root)
		// What does not fit where the file is, the kernel says now or never.
		if err := unix.Syncfs(int(root.Fd())); err != nil {
			return fmt.Errorf("writing what is in it: %w", err)
		}
		return nil
	})
	return hint, err
}

// untar unpacks an archive in a directory. The tool keeps to it: a name with .. in it, or
// one that leads through a link of the archive, is not followed out of it.
func untar(ctx context.Context, archive, dir *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, unpackLimit)
	defer cancel()
	out, code, err := toolIn(ctx, dir, archive, "tar", "--extract", "--file=-", "--numeric-owner", "--same-owner", "--preserve-permissions",
		"--acls", "--xattrs", "--xattrs-include=*", "--warning=no-timestamp", "--warning=no-unknown-keyword")
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case code < 0:
		return fmt.Errorf("cannot unpack it: %w%s", err, out)
	case strings.Contains(out, "No space left on device"), strings.Contains(out, "Wrote only"):
		return failure.Invalid("what is in it does not fit: make it larger with --size%s", out)
	}
	return failure.Invalid("it cannot be unpacked as a tar archive%s", out)
}

// noInit says why a tree has no init, as far as that can be seen; empty: it has one.
func noInit(root *os.File) string {
	if hasInit(root) {
		return ""
	}
	there := func(name string) bool {
		f, err := inroot.Open(root, name, unix.O_PATH)
		if err == nil {
			f.Close()
		}
		return err == nil
	}
	switch {
	case there("manifest.json"), there("oci-layout"):
		return "it is an archive of layers, as 'docker save' makes it: the tree comes out of 'docker export' of a container"
	case there("rootfs"):
		return "the root seems to be in its directory rootfs: pack that directory's tree, with 'tar -C rootfs -c .'"
	}
	return "it has none of " + strings.Join(Inits, ", ") + ": pack the tree of the root itself, with 'tar -C TREE -c .', or name its init at each boot with --init"
}

// unseen mounts a filesystem where nobody sees it, for as long as do runs.
func unseen(ctx context.Context, device string, fsys Filesystem, readOnly bool, do func(root *os.File) error) error {
	backing, _, err := openDevice(device, readOnly)
	if err != nil {
		return err
	}
	defer backing.Close()
	source, held, err := blockDevice(ctx, backing, fsys, loop.Options{ReadOnly: readOnly})
	if err != nil {
		return err
	}
	if held != nil {
		defer held.Close()
	}
	mnt, err := newMount(source, fsys, readOnly)
	if err != nil {
		return fmt.Errorf("%w %s from %s: %w", ErrMount, article(fsys.Type), device, err)
	}
	return errors.Join(do(mnt), mnt.Close())
}
