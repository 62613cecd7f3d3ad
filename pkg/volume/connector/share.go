package connector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/durable"
	"github.com/lxcboot/lxcboot/pkg/fault"
	"github.com/lxcboot/lxcboot/pkg/lock"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// mountLimit is how long an NFS server may take to answer.
const mountLimit = 30 * time.Second

// holders is a directory that counts who uses something: a file for each attachment, named
// after it, so that the count survives a crash and a second release counts for nothing. It
// is read and changed under a lock.
type holders string

func (d holders) add(attachment string) error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(string(d), attachment), nil, 0o600); err != nil {
		return err
	}
	for _, dir := range []string{string(d), filepath.Dir(string(d)), filepath.Dir(filepath.Dir(string(d)))} {
		if err := durable.SyncDir(dir); err != nil {
			return err
		}
	}
	return nil
}

// others says whether anybody else is counted.
func (d holders) others(attachment string) (bool, error) {
	all, err := os.ReadDir(string(d))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	return slices.ContainsFunc(all, func(e fs.DirEntry) bool { return e.Name() != attachment }), nil
}

func (d holders) remove(attachment string) error {
	err := os.Remove(filepath.Join(string(d), attachment))
	if err == nil {
		err = durable.SyncDir(string(d))
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// share is an export mounted once for all attachments of this host. A lock that the kernel
// drops with its holder makes each change one step.
type share struct {
	h   *Host
	dir string // StateDir/mounts/HASH
}

// share is the mount of an export with these options.
func (h *Host) share(export, options string) share {
	sum := sha256.Sum256([]byte(export + "\x00" + options))
	return share{h, filepath.Join(h.stateDir(), "mounts", hex.EncodeToString(sum[:8]))}
}

func (s share) target() string   { return filepath.Join(s.dir, "mnt") }
func (s share) holders() holders { return holders(filepath.Join(s.dir, "holders")) }

// mounted says whether anything is mounted on the target. It asks the mount
// table only, as a dead server would not answer.
func (s share) mounted() (bool, error) {
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(s.target()))
	if err != nil {
		return false, fmt.Errorf("reading the mount table: %w", err)
	}
	return len(all) > 0, nil
}

// locked runs f as the only one on this host that changes the share. The lock
// file stays: removing it would let two hold the lock.
func (s share) locked(ctx context.Context, f func() error) error {
	if err := os.MkdirAll(filepath.Dir(s.dir), 0o700); err != nil {
		return err
	}
	held, err := lock.File(ctx, s.dir+".lock", os.O_CREATE)
	if err != nil {
		return err
	}
	defer held.Close()
	return f()
}

// acquire counts the attachment in and mounts the export unless it is mounted.
func (s share) acquire(ctx context.Context, attachment, export, options string) error {
	return s.locked(ctx, func() error {
		if err := os.MkdirAll(s.target(), 0o700); err != nil {
			return err
		}
		// Counted before it is mounted: a mount is never without a holder.
		if err := s.holders().add(attachment); err != nil {
			return err
		}
		fault.Point("connector/share/counted")
		if on, err := s.mounted(); err != nil || on {
			return err
		}
		all := "nosuid,nodev,noexec"
		if options != "" {
			all = options + "," + all
		}
		if !strings.Contains(","+options, ",retry=") {
			all = "retry=0," + all // in minutes: mount.nfs(8) would try for two
		}
		ctx, cancel := context.WithTimeoutCause(ctx, mountLimit, fmt.Errorf("the server did not answer within %s", mountLimit))
		defer cancel()
		_, err := s.h.o.Run(ctx, "mount", "-t", "nfs", "-o", all, "--", export, s.target())
		return err
	})
}

// release counts the attachment out; the last one unmounts the export. An
// attachment that is not counted is done.
func (s share) release(ctx context.Context, attachment string) error {
	if _, err := os.Stat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return s.locked(ctx, func() error {
		others, err := s.holders().others(attachment)
		if err != nil {
			return err
		}
		if others {
			return s.holders().remove(attachment)
		}
		if err := s.unmount(ctx); err != nil {
			return err
		}
		fault.Point("connector/share/unmounted")
		if err := s.holders().remove(attachment); err != nil {
			return err
		}
		// Remove takes empty directories only, and no mountpoint.
		for _, dir := range []string{string(s.holders()), s.target(), s.dir} {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	})
}

func (s share) unmount(ctx context.Context) error {
	until := time.Now().Add(idleLimit)
	for {
		on, err := s.mounted()
		if err != nil || !on {
			return err
		}
		err = within(ctx, "unmounting "+s.target(), func() error {
			return unix.Unmount(s.target(), unix.UMOUNT_NOFOLLOW)
		})
		switch {
		case errors.Is(err, unix.EBUSY) && time.Now().Before(until):
			if err := wait.For(ctx, 100*time.Millisecond); err != nil {
				return err
			}
		case errors.Is(err, unix.EBUSY):
			return &BusyError{Path: s.target(), By: "an open file or a loop device"}
		case err != nil && !errors.Is(err, unix.EINVAL):
			return fmt.Errorf("unmounting %s: %w", s.target(), err)
		}
	}
}
