package rootfs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestProbeWhole probes a filesystem of each kind over a whole image, and holds the
// answer against libblkid's.
func TestProbeWhole(t *testing.T) {
	for name, test := range map[string]struct {
		fstype string
		args   []string
	}{
		"ext2":               {"ext2", nil},
		"ext3":               {"ext3", nil},
		"ext4":               {"ext4", nil},
		"ext4 1k blocks":     {"ext4", []string{"-b", "1024"}},
		"ext4 no checksums":  {"ext4", []string{"-O", "^metadata_csum"}},
		"ext4 32bit":         {"ext4", []string{"-O", "^64bit,^metadata_csum"}},
		"ext4 bigalloc":      {"ext4", []string{"-O", "bigalloc"}},
		"ext4 no journal":    {"ext4", []string{"-O", "^has_journal"}},
		"ext4 meta_bg":       {"ext4", []string{"-O", "meta_bg,^resize_inode"}},
		"xfs":                {"xfs", nil},
		"xfs version 4":      {"xfs", []string{"-m", "crc=0"}},
		"xfs 4k sectors":     {"xfs", []string{"-s", "size=4096"}},
		"xfs 1k blocks":      {"xfs", []string{"-b", "size=1024"}},
		"btrfs":              {"btrfs", nil},
		"btrfs sha256":       {"btrfs", []string{"--csum", "sha256"}},
		"btrfs xxhash":       {"btrfs", []string{"--csum", "xxhash"}},
		"btrfs blake2":       {"btrfs", []string{"--csum", "blake2"}},
		"btrfs single, mix":  {"btrfs", []string{"--mixed"}},
		"squashfs":           {"squashfs", nil},
		"squashfs xz 4k":     {"squashfs", []string{"-comp", "xz", "-b", "4096"}},
		"erofs":              {"erofs", nil},
		"erofs lz4":          {"erofs", []string{"-zlz4"}},
		"ext4 casefold name": {"ext4", []string{"-L", "müßig\x1b[2J"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := format(t, test.fstype, test.args...)
			size := sizeOf(t, path)
			got, err := Probe(path)
			if err != nil {
				t.Fatal(err)
			}
			theirs, ok := blkid(t, path, 0, size)
			if !ok {
				t.Fatal("blkid knows it not")
			}
			want := Filesystem{Type: test.fstype, UUID: theirs["UUID"], Size: size, Taken: size, ReadOnly: test.fstype == "squashfs" || test.fstype == "erofs", Label: got.Label}
			if test.fstype == "squashfs" && got.Taken > 0 && got.Taken < size { // padded to whole blocks
				want.Taken = got.Taken
			}
			if theirs["TYPE"] != test.fstype {
				t.Errorf("blkid takes it for %s", theirs["TYPE"])
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if name == "ext4 casefold name" {
				if got.Label != "müßig?[2J" {
					t.Errorf("label %q", got.Label)
				}
			} else if test.fstype != "erofs" && got.Label != theirs["LABEL"] { // blkid 2.38 has no label of it
				t.Errorf("label %q, blkid says %q", got.Label, theirs["LABEL"])
			}
			text, _ := json.Marshal(got)
			var back Filesystem
			if err := json.Unmarshal(text, &back); err != nil || !cmp.Equal(back, got) {
				t.Errorf("as JSON it came back as %+v, %v", back, err)
			}
			// Every real one has a root directory that can be reached.
			c := inspectFile(t, path)
			if len(c.standing()) != 1 || len(reachable(c.standing())) != 1 {
				t.Errorf("its root directory is not reached: %+v", c.standing())
			}
		})
	}
}

// TestProbeTables probes filesystems on first partitions, and holds the range
// against sfdisk's reading.
func TestProbeTables(t *testing.T) {
	const size = 48 * mib
	ext4 := format(t, "ext4")
	for name, test := range map[string]struct {
		script string
		fourK  bool                            // sectors of 4096 bytes
		mend   func(t *testing.T, path string) // changes the table after sfdisk's reading
		number int
		note   string
	}{
		"MBR":                  {script: "label: dos\n2048,49152\n,,82\n", number: 1},
		"MBR third entry":      {script: "label: dos\n3: 4096,49152\n4: 65536,\n", number: 3},
		"MBR out of order":     {script: "label: dos\n1: 32768,49152\n2: 2048,8192\n", number: 1},
		"MBR logical":          {script: "label: dos\n2048,90112,5\n4096,49152\n", number: 5, note: "logical partition"},
		"MBR two logicals":     {script: "label: dos\n2048,95000,f\n5: 4096,49152\n6: 61440,4096\n", number: 5, note: "logical"},
		"MBR extended first":   {script: "label: dos\n1: 65536,16384,5\n2: 2048,49152\n5: 67584,2048\n", number: 2},
		"MBR type FAT":         {script: "label: dos\n2048,49152,c\n", number: 1},
		"GPT":                  {script: "label: gpt\n2048,49152\n,\n", number: 1},
		"GPT third entry":      {script: "label: gpt\n3: 4096,49152\n9: 65536,2048\n", number: 3},
		"GPT like a cloud's":   {script: "label: gpt\n1: 40960,49152\n14: 2048,6144,21686148-6449-6E6F-744E-656564454649\n15: 8192,8192,U\n", number: 1},
		"GPT 4 entries":        {script: "label: gpt\ntable-length: 4\n2: 2048,49152\n", number: 2},
		"GPT 512 entries":      {script: "label: gpt\ntable-length: 512\n2: 2048,49152\n", number: 2},
		"MBR 4K sectors":       {script: "label: dos\n256,6144\n", fourK: true, number: 1},
		"GPT 4K sectors":       {script: "label: gpt\n256,6144\n", fourK: true, number: 1},
		"MBR 4K logical":       {script: "label: dos\n256,11264,5\n512,6144\n", fourK: true, number: 5, note: "logical"},
		"GPT primary header":   {script: "label: gpt\n2048,49152\n", number: 1, note: "backup", mend: func(t *testing.T, p string) { patch(t, p, 512+40, []byte{1}) }},
		"GPT primary entries":  {script: "label: gpt\n2048,49152\n", number: 1, note: "backup", mend: func(t *testing.T, p string) { patch(t, p, 1024+33, []byte{9}) }},
		"GPT primary zeroed":   {script: "label: gpt\n2048,49152\n", number: 1, note: "backup", mend: func(t *testing.T, p string) { patch(t, p, 512, make([]byte, 16*1024)) }},
		"GPT backup damaged":   {script: "label: gpt\n2048,49152\n", number: 1, mend: func(t *testing.T, p string) { patch(t, p, size-512, make([]byte, 512)) }},
		"GPT on a grown disk":  {script: "label: gpt\n2048,49152\n", number: 1, mend: func(t *testing.T, p string) { run(t, "truncate", "-s", "+64M", p) }},
		"GPT grown and broken": {script: "label: gpt\n2048,49152\n", number: 1, note: "backup", mend: func(t *testing.T, p string) { run(t, "truncate", "-s", "+64M", p); patch(t, p, 1024+33, []byte{9}) }},
		"GPT hybrid MBR":       {script: "label: gpt\n2048,49152\n2: 61440,2048\n", number: 1, note: "hybrid", mend: func(t *testing.T, p string) { run(t, "sgdisk", "--hybrid=2", p) }},
		"MBR over a stale GPT": {script: "label: gpt\n2048,49152\n", number: 2, note: "stale GPT", mend: func(t *testing.T, p string) {
			patch(t, p, 446, make([]byte, 64))
			patch(t, p, 446+16, []byte{0, 0, 0, 0, 0x83, 0, 0, 0, 0, 8, 0, 0, 0, 0xc0, 0, 0}) // 2048,49152
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path, sector := blank(t, size), 512
			if test.fourK {
				sector = 4096
			}
			sfdisk(t, loopDisk(t, path, sector), test.script)
			want := sfdiskFirst(t, loopDisk(t, path, sector))
			if want.Number != test.number && test.mend == nil {
				t.Errorf("sfdisk takes %d for the first", want.Number)
			}
			if test.mend != nil {
				test.mend(t, path)
			}
			put(t, ext4, path, want.Offset)
			probe := func(path string) Filesystem {
				t.Helper()
				got, err := Probe(path)
				if err != nil {
					t.Fatal(err)
				}
				theirs, _ := blkid(t, path, want.Offset, want.Size)
				if got.Type != "ext4" || got.UUID == "" || got.UUID != theirs["UUID"] || got.Partition != test.number || got.Offset != want.Offset || got.Size != want.Size || got.SectorSize != sector {
					t.Errorf("got %+v, sfdisk says %+v, blkid %v", got, want, theirs)
				}
				if test.note == "" && got.Note != "" || !strings.Contains(got.Note, test.note) {
					t.Errorf("note %q, want %q", got.Note, test.note)
				}
				return got
			}
			got := probe(path)
			if dev := probe(loopDisk(t, path, sector)); !cmp.Equal(dev, got) {
				t.Errorf("as a block device it is %+v", dev)
			}
		})
	}
}

// TestProbeRefuses names what is there instead of a root filesystem.
func TestProbeRefuses(t *testing.T) {
	inFirst := func(t *testing.T, image, table string) string {
		path := disk(t, sizeOf(t, image)+2*mib, "label: "+table+"\n2048,\n")
		put(t, image, path, mib)
		return path
	}
	live := func(name string, args ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := blank(t, 32*mib)
			runIn(t, "secret", name, append(args, path)...)
			return path
		}
	}
	kept := func(name string, size int64) func(t *testing.T) string {
		return func(t *testing.T) string { return head(t, name, size) }
	}
	mark := func(offset int64, bytes ...string) func(t *testing.T) string {
		return func(t *testing.T) string {
			path := blank(t, 16*mib)
			patch(t, path, offset, []byte(strings.Join(bytes, "")))
			return path
		}
	}
	for name, test := range map[string]struct {
		make  func(t *testing.T) string
		found string
		blkid string // libblkid's name, where it is the tool that knows
	}{
		"swap":     {live("mkswap"), swapArea, "swap"},
		"swap 64k": {live("mkswap", "--pagesize", "65536"), swapArea, "swap"},
		"vfat":     {live("mkfs.vfat", "-F", "32"), fat, "vfat"},
		"vfat 16":  {live("mkfs.vfat", "-F", "16"), fat, "vfat"},
		"vfat 12":  {live("mkfs.vfat", "-F", "12"), fat, "vfat"},
		"vfat MBR": {live("mkfs.vfat", "--mbr=y"), fat, "vfat"},
		"LUKS1":    {live("cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000"), luks, "crypto_LUKS"},
		"LUKS2":    {live("cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"), luks, "crypto_LUKS"},
		"LVM":      {kept("lvm", 16*mib), lvm, "LVM2_member"},
		"NTFS":     {kept("ntfs", 16*mib), ntfs, "ntfs"},
		"exFAT":    {kept("exfat", 16*mib), exfat, "exfat"},
		"F2FS":     {kept("f2fs", 64*mib), f2fs, "f2fs"},
		"ISO":      {kept("iso", 374*1024), iso, "iso9660"},
		"bcache":   {kept("bcache", 16*mib), bcache, "bcache"},
		"ZFS": {func(t *testing.T) string {
			path := blank(t, 64*mib)
			patch(t, path, 16*1024, []byte{1, 1, 0, 0})
			for i := range int64(8) {
				patch(t, path, 128*1024+i*1024, []byte("\x0c\xb1\xba\x00\x00\x00\x00\x00\x88\x13\x00\x00"))
			}
			return path
		}, zfs, "zfs_member"},
		"md 1.2":  {func(t *testing.T) string { return md1(t, 4096) }, raid, "linux_raid_member"},
		"md 1.1":  {func(t *testing.T) string { return md1(t, 0) }, raid, "linux_raid_member"},
		"md 1.0":  {func(t *testing.T) string { return md1(t, 16*mib-8192) }, raid, "linux_raid_member"},
		"md 0.90": {mark(16*mib-65536, "\xfc\x4e\x2b\xa9\x00\x00\x00\x00\x5a\x00\x00\x00"), raid, "linux_raid_member"},
		"qcow2": {func(t *testing.T) string {
			path := blank(t, 0)
			run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
			return path
		}, "a qcow2 image, which is not raw", ""},
		"gzip":             {mark(0, "\x1f\x8b\x08\x00"), "gzip-compressed", ""},
		"BitLocker":        {mark(0, "\xeb\x58\x90-FVE-FS-"), bitlocker, ""},
		"JFS":              {mark(32768, "JFS1"), "a JFS filesystem", ""},
		"blank":            {func(t *testing.T) string { return blank(t, 16*mib) }, "begins with zeros only", ""},
		"tiny":             {func(t *testing.T) string { return blank(t, 100) }, "begins with zeros only", ""},
		"empty file":       {func(t *testing.T) string { return blank(t, 0) }, "its size is 0", ""},
		"text":             {mark(0, "Once upon a time"), "nothing that is known", ""},
		"MBR no entry":     {func(t *testing.T) string { return disk(t, 16*mib, "label: dos\n") }, "the MBR partition table holds no partition", ""},
		"GPT no entry":     {func(t *testing.T) string { return disk(t, 16*mib, "label: gpt\n") }, "the GPT holds no partition", ""},
		"MBR only a shell": {func(t *testing.T) string { return disk(t, 16*mib, "label: dos\n2048,,5\n") }, "no logical partition", ""},
		"empty partition":  {func(t *testing.T) string { return disk(t, 16*mib, "label: dos\n2048,\n") }, "partition 1, the first of the MBR partition table (its type is 0x83, Linux), holds nothing: it begins with zeros", ""},
		"EFI first": {func(t *testing.T) string {
			path := disk(t, 64*mib, "label: gpt\n2048,65536,U\n,\n")
			put(t, live("mkfs.vfat")(t), path, mib)
			return path
		}, "EFI system), holds a FAT filesystem; the root has to be on the partition with the lowest number, the others are ignored", ""},
		"LVM in MBR": {func(t *testing.T) string { return inFirst(t, head(t, "lvm", 16*mib), "dos") }, "holds " + lvm, ""},
		"LUKS in GPT": {func(t *testing.T) string {
			return inFirst(t, live("cryptsetup", "luksFormat", "-q", "--type", "luks1", "--pbkdf-force-iterations", "1000")(t), "gpt")
		}, "holds " + luks, ""},
		"swap in MBR": {func(t *testing.T) string { return inFirst(t, live("mkswap")(t), "dos") }, "holds " + swapArea, ""},
		"ext4 checksum": {func(t *testing.T) string {
			path := format(t, "ext4")
			patch(t, path, 1024+120, []byte("changed"))
			return path
		}, "a damaged superblock of an ext4 filesystem: its checksum does not hold", ""},
		"xfs checksum": {func(t *testing.T) string {
			path := format(t, "xfs")
			patch(t, path, 108, []byte("changed"))
			return path
		}, "a damaged superblock of an xfs filesystem: its checksum does not hold", ""},
		"btrfs checksum": {func(t *testing.T) string {
			path := format(t, "btrfs")
			patch(t, path, 65536+299, []byte("changed"))
			return path
		}, "a damaged superblock of a btrfs filesystem: its checksum does not hold", ""},
		"erofs checksum": {func(t *testing.T) string {
			path := format(t, "erofs")
			patch(t, path, 1024+64, []byte("changed"))
			return path
		}, "a damaged superblock of an erofs filesystem: its checksum does not hold", ""},
		"ext journal": {live("mke2fs", "-q", "-F", "-O", "journal_dev"), "it is the journal of another filesystem", ""},
		"ext4 journal away": {func(t *testing.T) string {
			journal := loopDisk(t, live("mke2fs", "-q", "-F", "-b", "4096", "-O", "journal_dev")(t), 512)
			path := blank(t, 32*mib)
			run(t, "mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-J", "device="+journal, path)
			return path
		}, "its journal is on another device", ""},
		"squashfs 3": {func(t *testing.T) string {
			path := format(t, "squashfs")
			patch(t, path, 28, []byte{3})
			return path
		}, "of version 3.0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := test.make(t)
			got, err := Probe(path)
			var none *NotFoundError
			if !errors.Is(err, ErrNoFilesystem) || !errors.As(err, &none) {
				t.Fatalf("got %+v, %v", got, err)
			}
			if !strings.Contains(err.Error(), test.found) || none.Mend == "" {
				t.Errorf("got %q, want %q and how to mend it", err, test.found)
			}
			if test.blkid != "" {
				if theirs, _ := blkid(t, path, 0, sizeOf(t, path)); theirs["TYPE"] != test.blkid {
					t.Errorf("blkid takes it for %v", theirs)
				}
			}
		})
	}
}

// md1 makes an image with a superblock of md 1.x at the offset.
func md1(t testing.TB, offset int64) string {
	path := blank(t, 16*mib)
	sb := make([]byte, 256)
	le.PutUint32(sb, 0xa92b4efc)
	le.PutUint32(sb[4:], 1)
	le.PutUint64(sb[144:], uint64(offset)/512)
	sum := uint64(0)
	for i := 0; i < len(sb); i += 4 {
		sum += uint64(le.Uint32(sb[i:]))
	}
	le.PutUint32(sb[216:], uint32(sum&0xffffffff+sum>>32))
	patch(t, path, offset, sb)
	return path
}
