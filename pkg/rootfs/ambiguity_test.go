package rootfs

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestAmbiguity holds the rule of docs/rootfs.md: what stands beside what, with
// real filesystems and tables one over the other.
func TestAmbiguity(t *testing.T) {
	const size = 192 * mib
	const mbr = "label: dos\n2048,65536\n"
	// over makes a filesystem over a whole image that had something before. Today's
	// mke2fs clears what it does not use; here it leaves that as older ones do.
	over := func(t *testing.T, path, fstype string) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		boot := readAt(f, 0, 1024)
		a := append(slices.Clone(mkfsArgs[fstype]), path)
		if fstype == "ext4" {
			a = slices.Insert(a, 1, "-E", "nodiscard")
		}
		run(t, a[0], a[1:]...)
		if fstype == "ext4" {
			patch(t, path, 0, boot)
		}
	}
	swapMark := func(t *testing.T, path string) {
		swap := blank(t, 1*mib)
		run(t, "mkswap", swap)
		data, err := os.ReadFile(swap)
		if err != nil {
			t.Fatal(err)
		}
		patch(t, path, 1024, data[1024:1024+16])
		patch(t, path, 4086, data[4086:4096])
	}
	// breakExtRoot makes the root directory of an ext4 unreachable, as what is
	// written over it later does.
	breakExtRoot := func(t *testing.T, path string, offset int64) {
		patch(t, path, extRootAt(t, path, offset), make([]byte, 4096))
	}
	for name, test := range map[string]struct {
		make      func(t *testing.T) string
		fstype    string // what wins
		partition int
		note      string
		err       error // ErrAmbiguous, ErrNoFilesystem, ErrTruncated, ErrBadTable
		says      []string
	}{
		"ext4 over an MBR, which survives": {make: func(t *testing.T) string {
			path := disk(t, size, mbr)
			over(t, path, "ext4")
			return path
		}, fstype: "ext4", note: "stale MBR partition table was ignored"},
		"ext4 over an MBR with a broken entry": {make: func(t *testing.T) string {
			path := disk(t, size, mbr)
			over(t, path, "ext4")
			run(t, "truncate", "-s", "24M", path)
			over(t, path, "ext4")
			return path
		}, fstype: "ext4", note: "damaged partition table was ignored"},
		"ext4 over an MBR whose ext4 survives": {make: func(t *testing.T) string {
			path := disk(t, size, mbr)
			over(t, path, "ext4")
			put(t, format(t, "ext4"), path, mib)
			return path
		}, err: ErrAmbiguous, says: []string{"an ext4 filesystem", "on partition 1 of its MBR", "wipefs"}},
		"MBR over an ext4, with a new ext4 in it": {make: func(t *testing.T) string {
			path := blank(t, size)
			over(t, path, "ext4")
			sfdisk(t, path, mbr)
			put(t, format(t, "ext4"), path, mib)
			breakExtRoot(t, path, 0)
			return path
		}, fstype: "ext4", partition: 1, note: "stale mark over the whole device was ignored"},
		"ext4 over an MBR whose ext4 is broken": {make: func(t *testing.T) string {
			path := disk(t, size, mbr)
			put(t, format(t, "ext4"), path, mib)
			breakExtRoot(t, path, mib)
			whole := blank(t, size)
			over(t, whole, "ext4")
			// Only the superblock and what follows up to the partition's start.
			patchFrom(t, whole, path, 1024, mib-1024)
			patchFrom(t, whole, path, extRootAt(t, whole, 0), 4096)
			return path
		}, fstype: "ext4", note: "without a root directory"},
		"MBR over an ext4, with LVM in it": {make: func(t *testing.T) string {
			path := blank(t, size)
			over(t, path, "ext4")
			sfdisk(t, path, mbr)
			put(t, head(t, "lvm", 16*mib), path, mib)
			return path
		}, err: ErrAmbiguous, says: []string{"an ext4 filesystem", lvm}},
		"GPT over a btrfs": {make: func(t *testing.T) string {
			path := blank(t, size)
			over(t, path, "btrfs")
			sfdisk(t, path, "label: gpt\n2048,65536\n")
			return path
		}, err: ErrAmbiguous, says: []string{"a btrfs filesystem", "a GPT in full health"}},
		"ext4 over a GPT, of which the end survives": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,65536\n")
			whole := blank(t, size)
			over(t, whole, "ext4")
			patchFrom(t, whole, path, 1024, size/2)
			return path
		}, fstype: "ext4", note: "stale GPT was ignored"},
		"a stale swap mark under a table": {make: func(t *testing.T) string {
			path := blank(t, size)
			swapMark(t, path)
			sfdisk(t, path, mbr)
			put(t, format(t, "ext4"), path, mib)
			return path
		}, err: ErrAmbiguous, says: []string{swapArea, "on partition 1"}},
		"an LVM label under an ext4": {make: func(t *testing.T) string {
			path := head(t, "lvm", size)
			over(t, path, "ext4")
			return path
		}, err: ErrAmbiguous, says: []string{"an ext4 filesystem", lvm, "wipefs"}},
		"a LUKS1 header under an ext4": {make: func(t *testing.T) string {
			path := blank(t, size)
			runIn(t, "secret", "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000", path)
			over(t, path, "ext4")
			return path
		}, err: ErrAmbiguous, says: []string{luks}},
		"a whole btrfs under an ext4": {make: func(t *testing.T) string {
			path := blank(t, size)
			over(t, path, "btrfs")
			f, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			over(t, path, "ext4")
			patch(t, path, 65536, f[65536:65536+4096])
			return path
		}, err: ErrAmbiguous, says: []string{"an ext4 filesystem", "a btrfs filesystem"}},
		"a dead btrfs superblock under an ext4": {make: func(t *testing.T) string {
			btrfs := format(t, "btrfs")
			path := blank(t, size)
			over(t, path, "ext4")
			patchFrom(t, btrfs, path, 65536, 4096)
			return path
		}, fstype: "ext4", note: "stale marks were ignored: btrfs"},
		"a broken btrfs superblock under an ext4": {make: func(t *testing.T) string {
			btrfs := format(t, "btrfs")
			path := blank(t, size)
			over(t, path, "ext4")
			patchFrom(t, btrfs, path, 65536, 2048)
			return path
		}, fstype: "ext4", note: "stale marks were ignored: btrfs"},
		"an xfs superblock of a larger disk over an ext4": {make: func(t *testing.T) string {
			xfs := format(t, "xfs")
			path := blank(t, size)
			over(t, path, "ext4")
			patchFrom(t, xfs, path, 0, 1024)
			return path
		}, fstype: "ext4", note: "stale marks were ignored: xfs"},
		"a dead xfs superblock over an ext4": {make: func(t *testing.T) string {
			xfs := format(t, "xfs")
			path := blank(t, 512*mib)
			over(t, path, "ext4")
			patchFrom(t, xfs, path, 0, 1024)
			return path
		}, fstype: "ext4", note: "stale marks were ignored: xfs"},
		"a squashfs over an ext4": {make: func(t *testing.T) string {
			squashfs := format(t, "squashfs")
			path := blank(t, size)
			over(t, path, "ext4")
			patchFrom(t, squashfs, path, 0, 1024)
			return path
		}, err: ErrAmbiguous, says: []string{"an ext4 filesystem", "a squashfs filesystem"}},
		"a boot loader under an ext4": {make: func(t *testing.T) string {
			path := format(t, "ext4")
			patch(t, path, 0, []byte("\xeb\x58\x90"))
			patch(t, path, 510, []byte("\x55\xaa"))
			return path
		}, fstype: "ext4"},
		"a RAID member's ext4": {make: func(t *testing.T) string {
			path := md1(t, 16*mib-8192)
			over(t, path, "ext4")
			run(t, "mkfs.ext4", "-q", "-F", path, "12M")
			patchFrom(t, md1(t, 16*mib-8192), path, 16*mib-8192, 4096)
			return path
		}, err: ErrNoFilesystem, says: []string{raid}},
		"a stale RAID mark in an ext4": {make: func(t *testing.T) string {
			path := blank(t, 16*mib)
			over(t, path, "ext4")
			patchFrom(t, md1(t, 16*mib-8192), path, 16*mib-8192, 4096)
			return path
		}, fstype: "ext4", note: "stale marks were ignored: " + raid},
		"a RAID mark behind a table": {make: func(t *testing.T) string {
			path := disk(t, 32*mib, "label: dos\n2048,49152\n")
			put(t, format(t, "ext4"), path, mib)
			old := blank(t, 32*mib)
			patch(t, old, 32*mib-65536, []byte("\xfc\x4e\x2b\xa9\x00\x00\x00\x00\x5a\x00\x00\x00"))
			patchFrom(t, old, path, 32*mib-65536, 4096)
			return path
		}, err: ErrNoFilesystem, says: []string{raid}},
		"FAT's boot sector in an MBR": {make: func(t *testing.T) string {
			vfat := blank(t, 32*mib)
			run(t, "mkfs.vfat", "-F", "16", vfat)
			path := disk(t, 32*mib, "label: dos\n2048,49152\n")
			put(t, format(t, "ext4"), path, mib)
			patchFrom(t, vfat, path, 0, 440) // as boot loaders keep it
			return path
		}, fstype: "ext4", partition: 1},
		"MBR and GPT that differ": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,65536\n")
			put(t, format(t, "ext4"), path, mib)
			patch(t, path, 446, make([]byte, 64))
			patch(t, path, 446, []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 0, 2, 0, 0, 0xc0, 0, 0})
			return path
		}, err: ErrAmbiguous, says: []string{"not protected"}},
		"GPT without protection": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,65536\n")
			put(t, format(t, "ext4"), path, mib)
			patch(t, path, 0, make([]byte, 512))
			return path
		}, err: ErrBadTable, says: []string{"without the protective MBR"}},
		"protection without a GPT": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,65536\n")
			patch(t, path, 512, make([]byte, 512))
			patch(t, path, size-512, make([]byte, 512))
			return path
		}, err: ErrBadTable, says: []string{"neither a GPT nor its backup"}},
		"an ext4 larger than its device": {make: func(t *testing.T) string {
			path := format(t, "ext4")
			run(t, "truncate", "-s", "20M", path)
			return path
		}, err: ErrTruncated, says: []string{"an ext4 filesystem", "needs 25165824 bytes, and there are 20971520"}},
		"an xfs larger than its partition": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,65536\n")
			xfs := format(t, "xfs")
			f, err := os.Open(xfs)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			patch(t, path, mib, readAt(f, 0, 4096))
			return path
		}, err: ErrTruncated, says: []string{"an xfs filesystem on partition 1"}},
		"a GPT on a disk that was cut": {make: func(t *testing.T) string {
			path := disk(t, size, "label: gpt\n2048,196608\n")
			run(t, "truncate", "-s", "32M", path)
			return path
		}, err: ErrBadTable, says: []string{"past the end of the device", "truncated"}},
		"two btrfs devices": {make: func(t *testing.T) string {
			path, other := blank(t, size), blank(t, size)
			run(t, "mkfs.btrfs", "-q", "-f", "-d", "single", "-m", "raid1", path, other)
			return path
		}, err: ErrNoFilesystem, says: []string{"spread over 2 devices"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Probe(test.make(t))
			if test.err != nil {
				if !errors.Is(err, test.err) {
					t.Fatalf("got %+v, %v; want %v", got, err, test.err)
				}
				for _, s := range test.says {
					if !strings.Contains(err.Error(), s) {
						t.Errorf("%q does not say %q", err, s)
					}
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Type != test.fstype || got.Partition != test.partition || test.note == "" && got.Note != "" || !strings.Contains(got.Note, test.note) {
				t.Errorf("got %+v, want %s on %d with the note %q", got, test.fstype, test.partition, test.note)
			}
		})
	}
}

// extRootAt is where the first group's inodes of an ext4 at the offset lie.
func extRootAt(t testing.TB, path string, offset int64) int64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	block := int64(1024) << le.Uint32(readAt(f, offset+1024+24, 4))
	return offset + block*int64(le.Uint32(readAt(f, offset+block*(1024/block+1)+8, 4)))
}

// patchFrom copies a range of an image over the same range of another.
func patchFrom(t testing.TB, from, to string, offset, length int64) {
	t.Helper()
	f, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b := readAt(f, offset, int(length))
	if b == nil {
		t.Fatalf("%s has no %d bytes at %d", from, length, offset)
	}
	patch(t, to, offset, b)
}
