package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// treeOf makes a btrfs whose subvolume root is the root, with an fstab, and other subvolumes,
// each with a file that is called as it is.
func treeOf(t *testing.T, fstab func(uuid string) string, dirs []string, subvolumes ...string) string {
	t.Helper()
	image := rootIn(t, "btrfs", "tree", append([]string{"root"}, subvolumes...)...)
	fsys, err := Probe(image)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	defer func() {
		run(t, "umount", dir)
		gone(t, image)
	}()
	for _, d := range append(dirs, "etc") {
		if err := os.MkdirAll(filepath.Join(dir, "root", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "root/etc/fstab"), []byte(fstab(fsys.UUID)), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, s := range subvolumes {
		s, _ = strings.CutSuffix(s, " empty")
		if err := os.WriteFile(filepath.Join(dir, s, "is-"+s), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// selected selects the subvolume root, and looks into it.
func selected(t *testing.T, image string) Filesystem {
	t.Helper()
	fsys, err := Select(t.Context(), image, Selection{Subvolume: "root"})
	if err == nil {
		fsys, err = Tree(t.Context(), image, fsys)
	}
	if err != nil {
		t.Fatal(err)
	}
	return fsys
}

// TestFstab takes of a root's fstab what the root's own filesystem is to be mounted at.
func TestFstab(t *testing.T) {
	t.Parallel()
	image := treeOf(t, func(uuid string) string {
		return strings.NewReplacer("U", "UUID="+uuid).Replace(`# a comment
U / btrfs subvol=root 0 0
U /var btrfs compress=zstd:1,subvol=/var 0 0
U	/home	btrfs	ro,subvol=home,noatime
U /home btrfs subvol=var
LABEL=tree /a/b btrfs subvol=a
/dev/disk/by-uuid/` + strings.ToUpper(uuid) + ` /a\040c btrfs subvol=a 0 0
LABEL="tree" /a btrfs subvol=a
U /later btrfs subvol=a,noauto
U /gone btrfs subvol=gone
U /etc/plain btrfs subvol=root/etc
U /default btrfs defaults
U /id btrfs subvolid=257
U /dev/shm btrfs subvol=a
U /run btrfs subvol=a
U /.oldroot btrfs subvol=a
U /up/../../x btrfs subvol=a
U relative btrfs subvol=a
UUID=00000000-0000-0000-0000-000000000000 /other btrfs subvol=a
/dev/vda3 /device btrfs subvol=a
U /ext ext4 subvol=a
U none swap sw
U /short btrfs
`)
	}, nil, "var empty", "home empty", "a empty")
	noLoops(t, image)
	want := []Submount{{Subvolume: "a", Path: "/a"}, {Subvolume: "a", Path: "/a c"}, {Subvolume: "a", Path: "/a/b"}, {Subvolume: "home", Path: "/home", ReadOnly: true}, {Subvolume: "var", Path: "/var"}}
	if got := selected(t, image); !reflect.DeepEqual(got.Mounts, want) || got.ReadOnly {
		t.Errorf("%+v", got)
	}
}

// TestMountTree mounts the subvolumes of a root in it, with its ids, and unmounts them with it.
func TestMountTree(t *testing.T) {
	t.Parallel()
	image := treeOf(t, func(uuid string) string {
		return strings.ReplaceAll(`U /var btrfs subvol=var
U /var/a btrfs subvol=a,ro
U /srv/b btrfs subvol=b
U /missing btrfs subvol=b
U /link btrfs subvol=b
U /link/etc btrfs subvol=b
U /etc/fstab btrfs subvol=b
`, "U", "UUID="+uuid)
	}, []string{"var", "srv/b"}, "var empty", "a empty", "b empty")
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	for _, err := range []error{os.Symlink("/", filepath.Join(dir, "root/link")), os.Mkdir(filepath.Join(dir, "var/a"), 0o755)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	run(t, "umount", dir)
	gone(t, image)
	noLoops(t, image)
	fsys := selected(t, image)
	target := t.TempDir()
	if err := Mount(t.Context(), image, fsys, target, MountOptions{IDMap: ids}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"var/is-var", "var/a/is-a", "srv/b/is-b"} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(target, name), &st); err != nil || st.Uid != uint32(ids.HostID) {
			t.Errorf("%s: owner %d, %v", name, st.Uid, err)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "var/a/x"), nil, 0o600); err == nil {
		t.Error("what is mounted read-only can be written to")
	}
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(target))
	if err != nil || len(infos) != 4 {
		t.Errorf("%d mounts, %v", len(infos), err)
	}
	for _, i := range infos {
		if !strings.Contains(i.Options, "nodev") || !strings.Contains(i.Options, "idmapped") {
			t.Errorf("%s has the options %s", i.Mountpoint, i.Options)
		}
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	gone(t, image)
}

// TestUnmountMoved unmounts a tree whose container has moved directories, and put links to the
// host in their place, while the host still has it mounted.
func TestUnmountMoved(t *testing.T) {
	t.Parallel()
	image := treeOf(t, func(uuid string) string {
		return strings.ReplaceAll("U /srv/b btrfs subvol=b\nU /a btrfs subvol=b\n", "U", "UUID="+uuid)
	}, []string{"srv/b", "a"}, "b empty")
	noLoops(t, image)
	target, outside := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(outside, "b"), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "--bind", filepath.Join(outside, "b"), filepath.Join(outside, "b"))
	defer run(t, "umount", filepath.Join(outside, "b"))
	if err := Mount(t.Context(), image, selected(t, image), target, MountOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Rename(filepath.Join(target, "srv"), filepath.Join(target, "moved")), os.Symlink(outside, filepath.Join(target, "srv"))); err != nil {
		t.Fatal(err)
	}
	// As if it had been moved just now.
	if err := unmountBelow(target, "srv/b"); !errors.Is(err, unix.EBUSY) {
		t.Error(err)
	}
	if mounted, err := mountinfo.Mounted(filepath.Join(outside, "b")); !mounted || err != nil {
		t.Errorf("what the link leads to was unmounted: %v", err)
	}
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	if mounted, err := mountinfo.Mounted(filepath.Join(outside, "b")); !mounted || err != nil {
		t.Errorf("what the link leads to was unmounted: %v", err)
	}
	gone(t, image)
}

// TestUnmountForeign leaves what another filesystem has below a root.
func TestUnmountForeign(t *testing.T) {
	t.Parallel()
	image := treeOf(t, func(string) string { return "" }, []string{"srv"})
	target := t.TempDir()
	if err := Mount(t.Context(), image, selected(t, image), target, MountOptions{}); err != nil {
		t.Fatal(err)
	}
	run(t, "mount", "-t", "tmpfs", "none", filepath.Join(target, "srv"))
	if err := Unmount(target); !errors.Is(err, ErrBusy) {
		t.Errorf("%v", err)
	}
	run(t, "umount", filepath.Join(target, "srv"))
	if err := Unmount(target); err != nil {
		t.Fatal(err)
	}
	gone(t, image)
}
