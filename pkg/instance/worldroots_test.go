package instance

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/lxcboot/lxcboot/pkg/rootfs"
	"github.com/lxcboot/lxcboot/pkg/seed"
)

type rootsFake struct{ *world }

func (w rootsFake) Select(_ context.Context, device string, s rootfs.Selection) (rootfs.Filesystem, error) {
	w.selected = s
	if v := volumesFake(w).attached(filepath.Base(device)); v != nil && w.blank[v.ID] {
		return rootfs.Filesystem{}, &rootfs.NotFoundError{Blank: true}
	}
	return rootfs.Filesystem{Type: "ext4", Size: 2 << 30, Taken: 1 << 30}, nil
}

func (w rootsFake) Tree(_ context.Context, _ string, fs rootfs.Filesystem) (rootfs.Filesystem, error) {
	return fs, nil
}

func (w rootsFake) Hint(context.Context, string, rootfs.Filesystem) string { return "a hint" }

func (w rootsFake) Check(ctx context.Context, device string, _ rootfs.Filesystem) error {
	return w.do(ctx, "check", func() error {
		for target, path := range w.mounts {
			if path == device {
				return fmt.Errorf("checked under the mount at %s", target)
			}
		}
		return nil
	})
}

func (w rootsFake) Grow(ctx context.Context, device string, fs rootfs.Filesystem, begin func() error) (rootfs.Filesystem, error) {
	err := w.do(ctx, "grow", func() error {
		w.growing[device] = true
		return begin()
	})
	delete(w.growing, device) // a Grow that lives on mends what it has begun
	if err == nil {
		fs.Taken = fs.Size
	}
	return fs, err
}

func (w rootsFake) MendGrown(ctx context.Context, device string, _ rootfs.Filesystem) error {
	return w.do(ctx, "mend", func() error {
		delete(w.growing, device)
		return nil
	})
}

func (w rootsFake) GrowMounted(target string, _ rootfs.Filesystem) error {
	return w.do(context.Background(), "grow mounted", func() error {
		if _, ok := w.mounts[target]; !ok {
			return errors.New("grown before it was mounted")
		}
		return nil
	})
}

func (w rootsFake) GrowRunning(device string, _ rootfs.Filesystem, init int, path string) error {
	return w.do(context.Background(), "grow running", func() error {
		if init == 0 {
			return errors.New("it does not run")
		}
		return nil
	})
}

func (w rootsFake) OpenTop(carrier string, _ rootfs.Filesystem) (f *os.File, err error) {
	err = w.do(context.Background(), "open top", func() error {
		f, err = os.Open(carrier)
		return err
	})
	return f, err
}

func (w rootsFake) Freeze(dir *os.File) error {
	return w.do(context.Background(), "freeze", func() error {
		if !w.guarded {
			return errors.New("frozen, and nobody would thaw it")
		}
		w.world.frozen[dir.Name()] = true
		return nil
	})
}

func (w rootsFake) Thaw(dir *os.File) (frozen bool, err error) {
	err = w.do(context.Background(), "thaw", func() error {
		frozen = w.world.frozen[dir.Name()]
		delete(w.world.frozen, dir.Name())
		return nil
	})
	return frozen, err
}

// Trim discards two blocks of what is mounted, and one of what is not.
func (w rootsFake) Trim(ctx context.Context, device string, _ rootfs.Filesystem, carrier string) (n int64, err error) {
	err = w.do(ctx, "trim", func() error {
		if n = 4096; carrier != "" {
			n = 8192
		}
		return nil
	})
	return n, err
}

func (w rootsFake) Mount(ctx context.Context, device string, _ rootfs.Filesystem, target string, _ rootfs.MountOptions) error {
	return w.do(ctx, "mount", func() error {
		if w.growing[device] {
			return errors.New("mounted while it grows")
		}
		for dir, path := range w.inside {
			if path == device && w.running() {
				return fmt.Errorf("mounted a second time, beside the container's %s", dir)
			}
		}
		w.mounts[target] = device
		return nil
	})
}

func (w rootsFake) MountMemory(target string, size int64) error {
	return w.do(context.Background(), fmt.Sprintf("mount memory of %d MiB", size>>20), func() error {
		w.mounts[target] = "tmpfs"
		return nil
	})
}

func (w rootsFake) Overlay(lower, upper, target string) error {
	return w.do(context.Background(), "overlay", func() error {
		if w.mounts[lower] == "" || w.mounts[upper] == "" {
			return errors.New("a side of the overlay is not mounted")
		}
		w.mounts[target] = "overlay"
		return nil
	})
}

func (w rootsFake) Unmount(target string) error {
	if _, ok := w.mounts[target]; !ok {
		return nil
	}
	return w.do(context.Background(), "unmount", func() error {
		delete(w.mounts, target)
		return nil
	})
}

func (w rootsFake) Mounted(target string) bool {
	_, ok := w.mounts[target]
	return ok || w.launched[target]
}

func (w rootsFake) Keep(root, path, into string, _ *rootfs.IDMap) error {
	return w.do(context.Background(), "keep file", func() error {
		w.kept[path] = true
		return os.MkdirAll(into, 0o700)
	})
}

func (w rootsFake) Restore(root, from string) error {
	return w.do(context.Background(), "restore files", func() error {
		if _, ok := w.mounts[root]; !ok {
			return errors.New("restored without the root")
		}
		clear(w.kept)
		return os.RemoveAll(from)
	})
}

func (w rootsFake) Forget(from string) error {
	w.forgot = w.forgot || len(w.kept) > 0
	clear(w.kept)
	return os.RemoveAll(from)
}

func (w rootsFake) CheckMountpoint(root, name string) error {
	if _, ok := w.mounts[root]; !ok {
		return errors.New("the mountpoint's filesystem is not mounted")
	}
	if w.badMountpoint != "" && w.mounts[root]+" "+name == w.badMountpoint {
		return rootfs.ErrOutside
	}
	return nil
}

func (w rootsFake) FindInit(root, init string) (string, error) {
	if _, ok := w.mounts[root]; !ok {
		return "", errors.New("the root is not mounted")
	}
	return "/sbin/init", nil
}

func (w rootsFake) Look(root string) (seed.Root, error) {
	if _, ok := w.mounts[root]; !ok {
		return seed.Root{}, errors.New("the root is not mounted")
	}
	return seed.Root{}, nil
}

func (w rootsFake) Format(ctx context.Context, device, _ string) error {
	return w.do(ctx, "format", func() error { return nil })
}

func (w rootsFake) WriteFile(root string, f rootfs.File, _ *rootfs.IDMap) error {
	return w.do(context.Background(), "write file", func() error {
		if _, ok := w.mounts[root]; !ok {
			return errors.New("written under the mountpoint")
		}
		return nil
	})
}
