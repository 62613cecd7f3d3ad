package rootfs

import (
	"context"
	"strings"
	"testing"
)

// BenchmarkProbe finds an ext4 over a whole image and on a GPT's first partition.
func BenchmarkProbe(b *testing.B) {
	whole := format(b, "ext4")
	part := disk(b, 48*mib, "label: gpt\n2048,49152\n")
	put(b, whole, part, mib)
	for name, path := range map[string]string{"whole": whole, "gpt": part} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := Probe(path); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"-blkid", func(b *testing.B) {
			for b.Loop() {
				run(b, "blkid", "--probe", path)
			}
		})
	}
}

// BenchmarkMount mounts and unmounts an image by losetup, mount and umount, and by
// this package, plain and mapped, with probing.
func BenchmarkMount(b *testing.B) {
	path, target := format(b, "ext4"), b.TempDir()
	b.Run("losetup-mount-umount", func(b *testing.B) {
		for b.Loop() {
			dev := strings.TrimSpace(run(b, "losetup", "--find", "--show", path))
			run(b, "mount", "-o", "nodev", dev, target)
			run(b, "umount", target)
			run(b, "losetup", "--detach", dev)
		}
	})
	for name, o := range map[string]MountOptions{"lxcboot": {}, "lxcboot-mapped": {IDMap: ids}} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				fsys, err := Probe(path)
				if err == nil {
					err = Mount(context.Background(), path, fsys, target, o)
				}
				if err == nil {
					err = Unmount(target)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
