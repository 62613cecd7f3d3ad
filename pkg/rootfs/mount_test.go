package rootfs

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/loop"
)

// mountAt probes and mounts an image at a new directory.
func mountAt(t testing.TB, path string, o MountOptions) (string, Filesystem) {
	t.Helper()
	noLoops(t, path)
	fsys, err := Probe(path)
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	t.Cleanup(func() {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if err := Mount(context.Background(), path, fsys, target, o); err != nil {
		t.Fatal(err)
	}
	return target, fsys
}

func infoAt(t testing.TB, target string) *mountinfo.Info {
	t.Helper()
	infos, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(target))
	if err != nil || len(infos) != 1 {
		t.Fatalf("mounts at %s: %v, %v", target, infos, err)
	}
	return infos[0]
}

var ids = &IDMap{HostID: 1_000_000, Count: 65536}

// TestMount mounts each type, whole and on a partition, as it is and mapped.
func TestMount(t *testing.T) {
	for _, fstype := range AllowList {
		for _, place := range []string{"whole", "partition"} {
			for _, mapped := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s %s mapped=%v", fstype, place, mapped), func(t *testing.T) {
					t.Parallel()
					path := format(t, fstype)
					if place == "partition" {
						whole := path
						path = disk(t, sizeOf(t, whole)+4*mib, fmt.Sprintf("label: gpt\n2048,%d\n", (sizeOf(t, whole)+511)/512+8))
						put(t, whole, path, mib)
					}
					o := MountOptions{}
					if mapped {
						o.IDMap = ids
					}
					target, fsys := mountAt(t, path, o)
					if (fsys.Partition != 0) != (place == "partition") {
						t.Errorf("%+v", fsys)
					}
					info := infoAt(t, target)
					opts := strings.Split(info.Options, ",")
					readOnly := fstype == "squashfs" || fstype == "erofs"
					for option, want := range map[string]bool{"nodev": true, "nosuid": false, "noexec": false, "ro": readOnly, "rw": !readOnly} {
						if contains(opts, option) != want {
							t.Errorf("options %s: %s is %v", info.Options, option, !want)
						}
					}
					if info.Optional != "" {
						t.Errorf("the mount is not private: %s", info.Optional)
					}
					if strings.HasPrefix(fstype, "ext") && (info.FSType != "ext4" || strings.Contains(info.VFSOptions, "errors=panic")) {
						t.Errorf("%s %s", info.FSType, info.VFSOptions)
					}
					owner := uint32(0)
					if mapped {
						owner = ids.HostID
					}
					var st unix.Stat_t
					if err := unix.Stat(target, &st); err != nil || st.Uid != owner || st.Gid != owner {
						t.Errorf("the root belongs to %d:%d, %v", st.Uid, st.Gid, err)
					}
					if ok, err := mounted(target); !ok || err != nil {
						t.Errorf("mounted: %v, %v", ok, err)
					}
					if found, err := loopsOf(path); err != nil || len(found) != 1 || !found[0].Autoclear || found[0].Offset != fsys.Offset || found[0].ReadOnly != readOnly {
						t.Errorf("loop devices: %+v, %v", found, err)
					}
					err := WriteFile(target, File{Path: "/etc/x", Data: []byte("y"), Mode: 0o644}, o.IDMap)
					if readOnly != errors.Is(err, unix.EROFS) || !readOnly && err != nil {
						t.Errorf("written to: %v", err)
					}
					// The loop device goes by itself.
					if err := Unmount(target); err != nil {
						t.Fatal(err)
					}
					gone(t, path)
					if ok, err := mounted(target); ok || err != nil {
						t.Errorf("still mounted: %v, %v", ok, err)
					}
					if err := Unmount(target); err != nil {
						t.Errorf("unmounted twice: %v", err)
					}
				})
			}
		}
	}
}

func contains(all []string, one string) bool {
	for _, a := range all {
		if a == one {
			return true
		}
	}
	return false
}

// TestMountBlockDevice mounts a block device, of which the driver is asked.
func TestMountBlockDevice(t *testing.T) {
	path := format(t, "ext4")
	dev, f, err := loop.Attach(context.Background(), path, loop.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		f.Close()
		if err := loop.Detach(dev); err != nil {
			t.Error(err)
		}
	})
	target, _ := mountAtDevice(t, dev.Path, MountOptions{})
	if info := infoAt(t, target); info.Source != dev.Path || !strings.Contains(info.Options, "ro") {
		t.Errorf("%+v", info)
	}
	if err := loop.Detach(dev); !errors.Is(err, loop.ErrInUse) {
		t.Errorf("detached under a mount: %v", err)
	}
	if found, _ := loopsOf(path); len(found) != 1 || found[0].Autoclear {
		t.Errorf("a refused detach left %+v", found)
	}
}

// mountAtDevice is mountAt for what keeps its loop device.
func mountAtDevice(t testing.TB, path string, o MountOptions) (string, Filesystem) {
	t.Helper()
	fsys, err := Probe(path)
	if err != nil {
		t.Fatal(err)
	}
	target := t.TempDir()
	t.Cleanup(func() {
		if err := Unmount(target); err != nil {
			t.Error(err)
		}
	})
	if err := Mount(context.Background(), path, fsys, target, o); err != nil {
		t.Fatal(err)
	}
	return target, fsys
}

// TestReadOnly mounts what is not to be written: nothing on it changes, though it
// was not unmounted cleanly.
func TestReadOnly(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			path := dirty(t, fstype)
			before := fingerprint(t, path)
			target, fsys := mountAt(t, path, MountOptions{ReadOnly: true})
			if journal := fstype == "ext3" || fstype == "ext4"; fsys.NeedsRecovery != journal {
				t.Errorf("needs recovery: %v", fsys.NeedsRecovery)
			}
			if _, err := os.ReadDir(target); err != nil {
				t.Error(err)
			}
			if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o600); !errors.Is(err, unix.EROFS) {
				t.Errorf("written to: %v", err)
			}
			if err := Unmount(target); err != nil {
				t.Fatal(err)
			}
			gone(t, path)
			if after := fingerprint(t, path); after != before {
				t.Error("the image was written to")
			}
			// And it mounts for writing, replaying its journal.
			target, _ = mountAt(t, path, MountOptions{})
			if data, err := os.ReadFile(filepath.Join(target, "etc/kept")); err != nil || string(data) != "kept" {
				t.Errorf("after the replay: %q, %v", data, err)
			}
		})
	}
}

// dirty makes an image whose filesystem was copied while it was mounted.
func dirty(t *testing.T, fstype string) string {
	t.Helper()
	path := format(t, fstype)
	target, _ := mountAt(t, path, MountOptions{})
	if err := WriteFile(target, File{Path: "/etc/kept", Data: []byte("kept"), Mode: 0o600}, nil); err != nil {
		t.Fatal(err)
	}
	found, err := loopsOf(path)
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	copied := blank(t, 0)
	run(t, "dd", "if="+found[0].Path, "of="+copied, "bs=1M", "conv=sparse,fsync", "status=none")
	run(t, "truncate", "-s", fmt.Sprint(sizeOf(t, path)), copied)
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	return copied
}

// TestClones mounts two volumes of one image, which have one UUID, side by side.
func TestClones(t *testing.T) {
	for _, fstype := range []string{"ext4", "xfs", "btrfs"} {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			one := format(t, fstype)
			two := blank(t, sizeOf(t, one))
			put(t, one, two, 0)
			noLoops(t, one)
			noLoops(t, two)
			a, fsys := mountAt(t, one, MountOptions{})
			b := t.TempDir()
			t.Cleanup(func() {
				if err := Unmount(b); err != nil {
					t.Error(err)
				}
			})
			err := Mount(context.Background(), two, fsys, b, MountOptions{})
			if fstype == "btrfs" && err != nil { // kernels before 6.7
				if !errors.Is(err, ErrMount) || !strings.Contains(err.Error(), "another btrfs with the same UUID "+fsys.UUID) {
					t.Error(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(a, "x"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(b, "x")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the second is the first: %v", err)
			}
		})
	}
}

func TestExplainBtrfsClone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.Close()
	err = explain(int(r.Fd()), klog{}, Filesystem{Type: "btrfs", UUID: "abc"}, unix.EEXIST)
	if !errors.Is(err, unix.EEXIST) || !strings.Contains(err.Error(), "same UUID abc") || !strings.Contains(err.Error(), "btrfstune") {
		t.Error(err)
	}
}

// TestMountFails mounts what cannot be, and looks at the words and at what is left.
func TestMountFails(t *testing.T) {
	for name, test := range map[string]struct {
		make func(t *testing.T) (string, Filesystem)
		o    MountOptions
		want error
		says []string
	}{
		"damaged ext4": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "ext4", "-b", "4096")
			fsys, _ := Probe(path)
			patch(t, path, 4096, make([]byte, 4096))
			return path, fsys
		}, want: ErrMount, says: []string{"damaged", "the kernel says: EXT4-fs (loop"}},
		"damaged xfs": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "xfs")
			fsys, _ := Probe(path)
			patch(t, path, 300, []byte("garbage"))
			return path, fsys
		}, want: ErrMount, says: []string{"damaged", "XFS (loop"}},
		"another type": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "ext4")
			fsys, _ := Probe(path)
			fsys.Type = "xfs"
			return path, fsys
		}, want: ErrMount, says: []string{"damaged"}},
		"a type that is not allowed": {make: func(t *testing.T) (string, Filesystem) {
			return format(t, "ext4"), Filesystem{Type: "proc", Size: mib}
		}, want: ErrMount, says: []string{`"proc" is not allowed`}},
		"no device": {make: func(t *testing.T) (string, Filesystem) {
			return filepath.Join(t.TempDir(), "missing"), Filesystem{Type: "ext4"}
		}, want: os.ErrNotExist},
		"a directory": {make: func(t *testing.T) (string, Filesystem) {
			return t.TempDir(), Filesystem{Type: "ext4", ReadOnly: true}
		}, want: ErrMount, says: []string{"neither a block device nor a regular file"}},
		"a partition past the end": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "ext4")
			fsys, _ := Probe(path)
			fsys.Partition, fsys.Offset = 1, mib
			return path, fsys
		}, want: ErrMount, says: []string{"it has 25165824 bytes"}},
		"no ids": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "ext4")
			fsys, _ := Probe(path)
			return path, fsys
		}, o: MountOptions{IDMap: &IDMap{HostID: 1<<32 - 10, Count: 65536}}, want: ErrMount, says: []string{"no range of ids"}},
		"no time": {make: func(t *testing.T) (string, Filesystem) {
			path := format(t, "ext4")
			fsys, _ := Probe(path)
			return path, fsys
		}, o: MountOptions{IDMap: ids}, want: context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, fsys := test.make(t)
			target := t.TempDir()
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if name == "no time" {
				cancel()
			}
			err := Mount(ctx, path, fsys, target, test.o)
			if !errors.Is(err, test.want) {
				t.Fatalf("got %v, want %v", err, test.want)
			}
			for _, s := range test.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("%q does not say %q", err, s)
				}
			}
			if ok, _ := mounted(target); ok {
				t.Error("it is mounted")
			}
			if _, err := os.Stat(path); err == nil {
				gone(t, path)
			}
		})
	}
}

// TestIDMapUnsupported has a driver that cannot map ids, as that of squashfs could not before
// Linux 6.2: one error says so, and what to do, and nothing is left.
func TestIDMapUnsupported(t *testing.T) {
	defer func(was []string) { AllowList = was }(AllowList)
	AllowList = append(slices.Clone(AllowList), "ramfs")
	path, target := format(t, "ext4"), t.TempDir()
	err := Mount(context.Background(), path, Filesystem{Type: "ramfs"}, target, MountOptions{IDMap: ids})
	if !errors.Is(err, ErrIDMapUnsupported) || !strings.Contains(err.Error(), "ramfs on this kernel") || !strings.Contains(err.Error(), "boot with --privileged") {
		t.Errorf("%v", err)
	}
	if ok, _ := mounted(target); ok {
		t.Error("it is mounted")
	}
	gone(t, path)
	if err := Mount(context.Background(), path, Filesystem{Type: "ramfs"}, target, MountOptions{}); err != nil {
		t.Errorf("without a mapping: %v", err)
	}
	if err := Unmount(target); err != nil {
		t.Error(err)
	}
}

// TestErrorsPanic mounts a filesystem whose superblock asks for a panic of the host
// on the first error.
func TestErrorsPanic(t *testing.T) {
	path := format(t, "ext4")
	run(t, "tune2fs", "-e", "panic", path)
	target, _ := mountAt(t, path, MountOptions{})
	if info := infoAt(t, target); !strings.Contains(info.VFSOptions, "errors=remount-ro") && strings.Contains(run(t, "tune2fs", "-l", path), "errors=panic") {
		t.Errorf("options %s", info.VFSOptions)
	}
	// The kernel shows the option only where it differs from the default that the
	// superblock has, which is panic.
	if info := infoAt(t, target); !strings.Contains(info.VFSOptions, "errors=remount-ro") {
		t.Errorf("options %s", info.VFSOptions)
	}
}

// TestParallelMounts mounts twenty at once.
func TestParallelMounts(t *testing.T) {
	image := format(t, "ext4")
	errs := make(chan error)
	const n = 20
	for range n {
		path, target := blank(t, sizeOf(t, image)), t.TempDir()
		put(t, image, path, 0)
		noLoops(t, path)
		go func() {
			fsys, err := Probe(path)
			if err == nil {
				err = Mount(context.Background(), path, fsys, target, MountOptions{IDMap: ids})
			}
			if err == nil {
				err = WriteFile(target, File{Path: "/x", Data: []byte("x"), Mode: 0o600}, ids)
			}
			errs <- errors.Join(err, Unmount(target))
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// TestNamespace opens a user namespace of the mapping, whose process is gone.
func TestNamespace(t *testing.T) {
	ns, err := ids.namespace()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	// A process in it sees the mapping.
	cmd := exec.Command("nsenter", fmt.Sprintf("--user=/proc/%d/fd/%d", os.Getpid(), ns.Fd()), "cat", "/proc/self/uid_map", "/proc/self/gid_map")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if f := strings.Fields(string(out)); len(f) != 6 || f[0] != "0" || f[1] != "1000000" || f[2] != "65536" || f[4] != "1000000" {
		t.Errorf("maps: %q", out)
	}
	for _, bad := range []IDMap{{}, {HostID: 5}, {HostID: 1<<32 - 1, Count: 2}} {
		if ns, err := bad.namespace(); err == nil {
			ns.Close()
			t.Errorf("%+v was taken", bad)
		}
	}
}
