package onhost

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/lxcboot/lxcboot/pkg/inuse"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/rootfs"
)

// Mount is rootfs.Copy, rootfs.MakeMountpoint and lxc.Mount.
func (Kernel) Mount(init int, target, dir string, ids *rootfs.IDMap) error {
	mnt, err := rootfs.Copy(target, ids)
	if err != nil {
		return err
	}
	defer mnt.Close()
	root, err := lxc.OpenDir(init, "/")
	if err != nil {
		return err
	}
	defer root.Close()
	if err := rootfs.MakeMountpoint(root, dir, ids); err != nil {
		return fmt.Errorf("cannot mount at %s in the container: %w", dir, err)
	}
	return lxc.Mount(init, mnt, dir)
}

// Mounted is lxc.Mounted.
func (Kernel) Mounted(init int, device, dir string) (bool, error) {
	return lxc.Mounted(init, device, dir)
}

// Unmount is lxc.Unmount.
func (Kernel) Unmount(ctx context.Context, init int, device, dir string) error {
	return lxc.Unmount(ctx, init, device, dir)
}

// CheckIdle is lxc.CheckIdle.
func (Kernel) CheckIdle(ctx context.Context, init int, device, dir string) error {
	return lxc.CheckIdle(ctx, init, device, dir)
}

// WaitAlone is inuse.WaitAlone.
func (Kernel) WaitAlone(ctx context.Context, device string) error {
	return inuse.WaitAlone(ctx, device)
}

// claimLimit is how long who looks at a device may take to let go of it.
const claimLimit = 10 * time.Second

// Take is inuse.Claim.
func (Kernel) Take(ctx context.Context, device string, again bool) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, claimLimit)
	defer cancel()
	return inuse.Claim(ctx, device, again)
}

// Carrier is inuse.Volume's.
func (Kernel) Carrier(device string) (string, error) {
	v, err := inuse.Of(device)
	if err != nil {
		return "", err
	}
	return v.Carrier(), nil
}

// Arrange is lxc.Arrange, and Mount of what is missing then.
func (k Kernel) Arrange(init int, dirs map[string]string, ids *rootfs.IDMap) error {
	missing, err := lxc.Arrange(init, dirs)
	if err != nil {
		return err
	}
	for _, target := range missing {
		if err := k.Mount(init, target, dirs[target], ids); err != nil {
			return err
		}
	}
	return nil
}
