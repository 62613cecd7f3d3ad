package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// rootIn makes a filesystem with an init: in its subvolumes, but for those that are called
// empty, where there are any.
func rootIn(t *testing.T, fstype, label string, subvolumes ...string) string {
	t.Helper()
	image := format(t, fstype, "-L", label)
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	defer func() {
		run(t, "umount", dir)
		gone(t, image)
	}()
	if fstype == "btrfs" && len(subvolumes) > 0 {
		for _, s := range subvolumes {
			name, plain := strings.CutSuffix(s, " empty")
			run(t, "btrfs", "-q", "subvolume", "create", filepath.Join(dir, name))
			if !plain {
				initIn(t, filepath.Join(dir, name))
			}
		}
		return image
	}
	if len(subvolumes) == 0 {
		initIn(t, dir)
	}
	return image
}

func initIn(t *testing.T, dir string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "sbin"), 0o755), os.WriteFile(filepath.Join(dir, "sbin/init"), []byte("#!"), 0o755)); err != nil {
		t.Fatal(err)
	}
}

// damageGroups takes from an ext4 at an offset what says where its blocks are: its superblock is sound,
// and no kernel mounts it.
func damageGroups(t *testing.T, path string, offset int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 16384), offset+2048); err != nil {
		t.Fatal(err)
	}
}

// setDefault makes a subvolume the default one.
func setDefault(t *testing.T, image, subvolume string) {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	run(t, "btrfs", "subvolume", "set-default", filepath.Join(dir, subvolume))
	run(t, "umount", dir)
	gone(t, image)
}

// TestHint names what would do instead of what was looked at.
func TestHint(t *testing.T) {
	t.Parallel()
	whole := rootIn(t, "btrfs", "b", "@", "home empty", "old")
	disk := disk(t, 200*mib, "label: gpt\nstart=1MiB, size=32MiB\nstart=40MiB, size=140MiB\n")
	put(t, rootIn(t, "ext4", "first"), disk, mib)
	put(t, rootIn(t, "btrfs", "second", "@"), disk, 40*mib)
	for name, c := range map[string]struct {
		device string
		looked Filesystem
		want   string
	}{
		"a whole btrfs":         {whole, Filesystem{Type: "btrfs"}, `its subvolume @ (btrfs) has an init: add subvolume=@; its subvolume old (btrfs) has an init: add subvolume=old`},
		"but for one":           {whole, Filesystem{Type: "btrfs", Subvolume: "old"}, ``},
		"nothing looked at yet": {disk, Filesystem{}, `partition 1 (ext4, label "first") has an init: add partition=1; subvolume @ of partition 2 (btrfs, label "second") has an init: add partition=2,subvolume=@`},
		"the first":             {disk, Filesystem{Type: "ext4", Partition: 1}, `subvolume @ of partition 2 (btrfs, label "second") has an init: add partition=2,subvolume=@`},
		"the second":            {disk, Filesystem{Type: "btrfs", Partition: 2}, `subvolume @ of partition 2 (btrfs) has an init: add partition=2,subvolume=@; partition 1 (ext4, label "first") has an init: add partition=1`},
	} {
		t.Run(name, func(t *testing.T) {
			looked, err := Probe(c.device)
			if c.looked.Partition != 0 {
				looked, err = probePartition(c.device, c.looked.Partition)
			}
			if err == nil {
				looked.Type, looked.Label, looked.Subvolume = c.looked.Type, "", c.looked.Subvolume
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := Hint(t.Context(), c.device, looked); got != c.want {
				t.Errorf("%q", got)
			}
		})
	}
	noLoops(t, whole)
	noLoops(t, disk)
}

// TestSelect selects on disks that are laid out as those of distributions are.
func TestSelect(t *testing.T) {
	const (
		linux = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
		boot  = "BC13C2FF-59E6-4262-A352-B275FD6F7172"
		root  = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
	)
	efi := func(t *testing.T) string {
		path := blank(t, 16*mib)
		run(t, "mkfs.vfat", path)
		return path
	}
	// lay makes a disk of filesystems; an empty one leaves its partition as it is.
	lay := func(t *testing.T, kind string, parts ...[2]string) string {
		t.Helper()
		const each = 330 // MiB
		script := "label: " + kind + "\n"
		start := 1
		for _, p := range parts {
			script += "start=" + strconv.Itoa(start) + "MiB, size=" + strconv.Itoa(each) + "MiB, type=" + p[0] + "\n"
			start += each
		}
		path := disk(t, int64(start+8)*mib, script)
		for i, p := range parts {
			if p[1] != "" {
				put(t, p[1], path, int64(1+i*each)*mib)
			}
		}
		return path
	}
	for name, c := range map[string]struct {
		make func(t *testing.T) string
		sel  Selection
		want string // partition and subvolume; with " empty": there is no init
		err  error
		says []string
	}{
		"Fedora, as it is": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{boot, rootIn(t, "ext4", "boot", "none")}, [2]string{linux, rootIn(t, "btrfs", "fedora", "root", "home empty")})
		}, Selection{}, "", ErrNoFilesystem, []string{`subvolume root of partition 3 (btrfs, label "fedora") has an init: add partition=3,subvolume=root`}},
		"Fedora": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{boot, rootIn(t, "ext4", "boot", "none")}, [2]string{linux, rootIn(t, "btrfs", "fedora", "root", "home empty")})
		}, Selection{"root", "auto"}, "3 root", nil, nil},
		"RHEL": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"21686148-6449-6E6F-744E-656564454649", ""}, [2]string{"U", efi(t)}, [2]string{boot, rootIn(t, "ext4", "boot", "none")}, [2]string{linux, rootIn(t, "xfs", "root")})
		}, Selection{}, "", ErrNoFilesystem, []string{`partition 4 (xfs, label "root") has an init: add partition=4`}},
		"its number": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "xfs", "root")})
		}, Selection{Partition: "2"}, "2 ", nil, nil},
		"its type, before what has an init": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{linux, rootIn(t, "ext4", "two")}, [2]string{root, rootIn(t, "ext4", "three")})
		}, Selection{Partition: "root"}, "3 ", nil, nil},
		"two of the type": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{root, rootIn(t, "ext4", "one")}, [2]string{root, rootIn(t, "ext4", "two")})
		}, Selection{Partition: "root"}, "", ErrAmbiguous, []string{"partitions 1, 2 all have the type of a root", "partition=1"}},
		"two with an init": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{linux, rootIn(t, "ext4", "two")})
		}, Selection{Partition: "root"}, "", ErrAmbiguous, []string{`partition 1 (ext4, label "one") and partition 2 (ext4, label "two") both have an init`}},
		"none with an init": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "ext4", "data", "none")})
		}, Selection{Partition: "root"}, "", ErrNoFilesystem, []string{"no partition with an init", "it has 1, 2"}},
		"none with an init, and one that cannot be mounted": {func(t *testing.T) string {
			path := lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "ext4", "data", "none")})
			damageGroups(t, path, 331*mib)
			return path
		}, Selection{Partition: "root"}, "", ErrMount, []string{"not all could be looked at", "partition 2", "damaged"}},
		"a number that is not there": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "ext4", "data", "none")})
		}, Selection{Partition: "5"}, "", ErrNoFilesystem, []string{"no partition 5", "it has 1, 2"}},
		"a number without a table": {func(t *testing.T) string { return rootIn(t, "ext4", "root") }, Selection{Partition: "1"}, "", ErrNoFilesystem, []string{"no partition table", "leave partition= out"}},
		"the root without a table": {func(t *testing.T) string { return rootIn(t, "ext4", "root") }, Selection{Partition: "root"}, "0 ", nil, nil},
		"no number":                {func(t *testing.T) string { return blank(t, mib) }, Selection{Partition: "0"}, "", nil, []string{`the partition "0"`}},
		"Raspberry Pi: an MBR": {func(t *testing.T) string {
			return lay(t, "dos", [2]string{"c", efi(t)}, [2]string{"83", rootIn(t, "ext4", "rootfs")})
		}, Selection{Partition: "root"}, "2 ", nil, nil},
		"Raspberry Pi, as it is": {func(t *testing.T) string {
			return lay(t, "dos", [2]string{"c", efi(t)}, [2]string{"83", rootIn(t, "ext4", "rootfs")})
		}, Selection{}, "", ErrNoFilesystem, []string{"add partition=2"}},
		"Fedora, by the root alone": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "btrfs", "fedora", "root", "home empty")})
		}, Selection{Partition: "root"}, "2 root", nil, nil},
		"its type, and the subvolume with an init": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{root, rootIn(t, "btrfs", "two", "@home empty", "system")})
		}, Selection{Partition: "root"}, "2 system", nil, nil},
		"of several subvolumes the one that is called so": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "btrfs", "two", "old", "@", "root empty")})
		}, Selection{Partition: "root"}, "2 @", nil, nil},
		"its type, without an init": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{root, rootIn(t, "ext4", "two", "none")})
		}, Selection{Partition: "root"}, "2  empty", nil, nil},
		"its type, without a filesystem": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{root, ""})
		}, Selection{Partition: "root"}, "", ErrBlank, []string{"partition 2"}},
		"its type, and a subvolume that is named": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{linux, rootIn(t, "ext4", "one")}, [2]string{root, rootIn(t, "btrfs", "two", "root", "var empty")})
		}, Selection{"root", "var"}, "2 var empty", nil, nil},
		"the default subvolume, before root and @": {func(t *testing.T) string {
			image := rootIn(t, "btrfs", "two", "root", "@", "snapshot")
			setDefault(t, image, "snapshot")
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, image})
		}, Selection{Partition: "root"}, "2 ", nil, nil},
		"of several subvolumes none": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{root, rootIn(t, "btrfs", "two", "new", "old")})
		}, Selection{Partition: "root"}, "", ErrAmbiguous, []string{"subvolume new of partition 2", "subvolume old of partition 2", "partition=2,subvolume=new"}},
		"of several subvolumes the one that is named": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "btrfs", "two", "new", "old", "var empty")})
		}, Selection{"root", "old"}, "2 old", nil, nil},
		"an ext4, whatever its subvolume": {func(t *testing.T) string {
			return lay(t, "gpt", [2]string{"U", efi(t)}, [2]string{linux, rootIn(t, "ext4", "two")})
		}, Selection{"root", "auto"}, "2 ", nil, nil},
		"a logical partition": {func(t *testing.T) string {
			path := disk(t, 96*mib, "label: dos\nstart=1MiB, size=16MiB, type=c\nstart=18MiB, size=76MiB, type=5\nstart=19MiB, size=25MiB, type=83\nstart=50MiB, size=25MiB, type=83\n")
			put(t, rootIn(t, "ext4", "logical"), path, 50*mib)
			return path
		}, Selection{Partition: "root"}, "6 ", nil, nil},
		"an extended partition": {func(t *testing.T) string {
			return disk(t, 96*mib, "label: dos\nstart=1MiB, size=16MiB, type=c\nstart=18MiB, size=76MiB, type=5\nstart=19MiB, size=25MiB, type=83\n")
		}, Selection{Partition: "2"}, "", ErrNoFilesystem, []string{"partition 2"}},
		"Ubuntu's subvolume":                   {func(t *testing.T) string { return rootIn(t, "btrfs", "u", "@", "@home empty") }, Selection{Subvolume: "auto"}, "0 @", nil, nil},
		"a subvolume by its name":              {func(t *testing.T) string { return rootIn(t, "btrfs", "u", "@", "two") }, Selection{Subvolume: "two"}, "0 two", nil, nil},
		"auto passes over one without an init": {func(t *testing.T) string { return rootIn(t, "btrfs", "u", "root empty", "@") }, Selection{Subvolume: "auto"}, "0 @", nil, nil},
		"a directory":                          {func(t *testing.T) string { return rootIn(t, "btrfs", "u") }, Selection{Subvolume: "sbin"}, "", ErrNoFilesystem, []string{`no subvolume "sbin"; it has none`}},
		"no such subvolume":                    {func(t *testing.T) string { return rootIn(t, "btrfs", "u", "@", "two") }, Selection{Subvolume: "three"}, "", ErrNoFilesystem, []string{`no subvolume "three"; it has @, two`}},
		"a default without an init":            {func(t *testing.T) string { return rootIn(t, "btrfs", "u", "x") }, Selection{Subvolume: "auto"}, "", ErrNoFilesystem, []string{"it has x", "subvolume=@"}},
		"the default subvolume":                {func(t *testing.T) string { return rootIn(t, "btrfs", "u") }, Selection{Subvolume: "auto"}, "0 ", nil, nil},
		"a subvolume of an ext4":               {func(t *testing.T) string { return rootIn(t, "ext4", "u") }, Selection{Subvolume: "@"}, "", ErrNoFilesystem, []string{"is for a btrfs", "an ext4"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := c.make(t)
			noLoops(t, image)
			fsys, err := Select(t.Context(), image, c.sel)
			if len(c.says) > 0 {
				if err == nil || c.err != nil && !errors.Is(err, c.err) {
					t.Fatalf("%+v, %v; want %v", fsys, err, c.err)
				}
				for _, s := range c.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q does not say %q", err, s)
					}
				}
				return
			}
			want, empty := strings.CutSuffix(c.want, " empty")
			if got := strconv.Itoa(fsys.Partition) + " " + fsys.Subvolume; err != nil || got != want {
				t.Fatalf("%q, %v; want %q", got, err, want)
			}
			// What is selected is what is mounted.
			dir := t.TempDir()
			if err := Mount(t.Context(), image, fsys, dir, MountOptions{}); err != nil {
				t.Fatal(err)
			}
			defer Unmount(dir)
			if _, err := FindInit(dir, ""); (err != nil) != empty {
				t.Error(err)
			}
		})
	}
}

// TestGrowSelected makes another partition than the first one larger, up to what follows it.
func TestGrowSelected(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		number int
		end    int64 // MiB
	}{
		"the last of a GPT":   {"label: gpt\nstart=1MiB, size=8MiB\nstart=9MiB, size=24MiB\n", 2, 127},
		"in the midst":        {"label: gpt\nstart=1MiB, size=8MiB\nstart=9MiB, size=24MiB\nstart=64MiB, size=8MiB\n", 2, 64},
		"the last of an MBR":  {"label: dos\nstart=1MiB, size=8MiB\nstart=9MiB, size=24MiB\n", 2, 128},
		"a logical one stays": {"label: dos\nstart=1MiB, size=40MiB, type=5\nstart=9MiB, size=24MiB\n", 5, 33},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := disk(t, 128*mib, c.script)
			put(t, format(t, "ext4"), image, 9*mib)
			fsys, err := probePartition(image, c.number)
			if err != nil {
				t.Fatal(err)
			}
			grown, err := Grow(t.Context(), image, fsys, func() error { return nil })
			if err != nil || grown.Partition != c.number || grown.Offset != 9*mib || grown.Offset+grown.Size != c.end*mib {
				t.Fatalf("%+v, %v", grown, err)
			}
			if c.number < firstLogical && grown.Size-grown.Taken > extGrain {
				t.Errorf("of %d bytes it takes %d", grown.Size, grown.Taken)
			}
			run(t, "sfdisk", "--verify", image)
		})
	}
}
