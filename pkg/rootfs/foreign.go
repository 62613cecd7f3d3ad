package rootfs

import (
	"hash/crc32"
	"io"
)

// The words for what is recognised and cannot be a root.
const (
	lvm       = "an LVM physical volume"
	luks      = "a LUKS encrypted volume"
	swapArea  = "a swap area"
	raid      = "a member of a RAID array (md)"
	fat       = "a FAT filesystem"
	ntfs      = "an NTFS filesystem"
	exfat     = "an exFAT filesystem"
	zfs       = "a member of a ZFS pool"
	bcache    = "a bcache device"
	reiser    = "a ReiserFS filesystem"
	iso       = "an ISO 9660 image"
	f2fs      = "an F2FS filesystem"
	bitlocker = "a BitLocker volume"
)

// foreign names what is recognised and cannot be a root: volume managers,
// encryption and RAID, and other filesystems. What has a checksum is held to it.
func foreign(b []byte, r *io.SectionReader) (found []signature) {
	add := func(name string, there bool) {
		if there {
			found = append(found, signature{name: name})
		}
	}
	add(lvm, isLVM(b))
	add(luks, isLUKS(b))
	add(swapArea, isSwap(b))
	add(raid, isMD1(b, 0) || isMD1(b, 4096))
	add(zfs, isZFS(b, r))
	add(bitlocker, is(b, 3, "-FVE-FS-"))
	add(ntfs, is(b, 3, "NTFS    ") && bootSector(b))
	add(exfat, is(b, 3, "EXFAT   "))
	add(fat, isFAT(b, r))
	for _, s := range shortMarks {
		if is(b, s.offset, s.magic) {
			found = append(found, signature{name: s.name, mark: int64(s.offset), weak: !s.sound(b)})
		}
	}
	for _, w := range weakMarks {
		if is(b, w.offset, w.magic) {
			found = append(found, signature{name: w.name, weak: true})
		}
	}
	if tail := mdAtEnd(r); tail != 0 {
		found = append(found, signature{name: raid, tail: tail})
	}
	return found
}

// shortMarks are of a few bytes, which a block of a file may hold as well: they stand where
// the superblock around them is one.
var shortMarks = []struct {
	offset      int
	magic, name string
	sound       func(b []byte) bool // of the beginning of the range, which has the mark
}{
	{4096 + 24, "\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81", bcache, func(b []byte) bool {
		return le.Uint64(b[4096+8:]) == 8 // the sector that it is on
	}},
	{4096 + 24, "\xc6\x85\x73\xf6\x66\xce\x90\xa9\xd9\x6a\x60\xcf\x80\x3d\xf7\xef", "a bcachefs filesystem", func(b []byte) bool {
		sector := at(b, 4096+104, 8)
		return sector != nil && le.Uint64(sector) == 8
	}},
	{32769, "CD001", iso, func(b []byte) bool { // a descriptor's kind and version
		version := at(b, 32774, 1)
		return (b[32768] <= 3 || b[32768] == 255) && version != nil && version[0] == 1
	}},
	{1024, "\x10\x20\xf5\xf2", f2fs, func(b []byte) bool { // version 1, and the logarithms of its sizes
		sb := at(b, 1024, 20)
		return sb != nil && le.Uint16(sb[4:]) == 1 && le.Uint32(sb[8:]) >= 9 && le.Uint32(sb[8:]) <= 12 && le.Uint32(sb[16:]) >= 12 && le.Uint32(sb[16:]) <= 16
	}},
	{65588, "ReIsErFs", reiser, reiserSound},
	{65588, "ReIsEr2Fs", reiser, reiserSound},
	{65588, "ReIsEr3Fs", reiser, reiserSound},
	{32768, "JFS1", "a JFS filesystem", func(b []byte) bool { // version, and the size of its blocks
		sb := at(b, 32768, 20)
		return sb != nil && (le.Uint32(sb[4:]) == 1 || le.Uint32(sb[4:]) == 2) && power2(uint64(le.Uint32(sb[16:])), 512, 4096)
	}},
	{32, "NXSB", "an APFS container", func(b []byte) bool { // the object's kind, and the size of its blocks
		sb := at(b, 0, 40)
		return sb != nil && le.Uint16(sb[24:]) == 1 && power2(uint64(le.Uint32(sb[36:])), 4096, 65536)
	}},
}

// reiserSound looks at the size and the number of a ReiserFS's blocks.
func reiserSound(b []byte) bool {
	return power2(uint64(le.Uint16(b[65536+44:])), 512, 8192) && le.Uint32(b[65536:]) != 0
}

// weakMarks are of a few bytes only. They are named when nothing else is there.
var weakMarks = []struct {
	offset      int
	magic, name string
}{
	{0, "QFI\xfb", "a qcow2 image, which is not raw"},
	{0, "KDMV", "a VMDK image, which is not raw"},
	{0, "vhdxfile", "a VHDX image, which is not raw"},
	{64, "\x7f\x10\xda\xbe", "a VDI image, which is not raw"},
	{0, "\x1f\x8b\x08", "gzip-compressed data"},
	{0, "\xfd7zXZ\x00", "xz-compressed data"},
	{0, "\x28\xb5\x2f\xfd", "zstd-compressed data"},
	{0, "BZh", "bzip2-compressed data"},
	{257, "ustar", "a tar archive"},
	{0, "-rom1fs-", "a romfs filesystem"},
	{0, "\x45\x3d\xcd\x28", "a cramfs filesystem"},
	{0, "sqsh", "a squashfs filesystem of the other byte order"},
	{1030, "\x34\x34", "a NILFS2 filesystem"},
	{1024, "H+\x00\x04", "an HFS+ filesystem"},
	{32769, "BEA01", "a UDF filesystem"},
	{65536, "\x01\x16\x19\x70", "a GFS2 filesystem"},
}

func is(b []byte, offset int, magic string) bool { return string(at(b, offset, len(magic))) == magic }

// isLVM finds the label in one of the first four sectors, with its checksum.
func isLVM(b []byte) bool {
	for sector := range 4 {
		s := at(b, sector*512, 512)
		if s != nil && string(s[:8]) == "LABELONE" && string(s[24:32]) == "LVM2 001" && le.Uint64(s[8:]) == uint64(sector) &&
			^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, s[20:]) == le.Uint32(s[16:]) {
			return true
		}
	}
	return false
}

func isLUKS(b []byte) bool {
	h := at(b, 0, 8)
	return h != nil && string(h[:6]) == "LUKS\xba\xbe" && (be.Uint16(h[6:]) == 1 || be.Uint16(h[6:]) == 2)
}

// isSwap finds the mark at the end of the first page, for every page size, with
// the version that the kernel takes; a suspended system has other words there.
func isSwap(b []byte) bool {
	for _, page := range []int{4096, 8192, 16384, 32768, 65536} {
		end := at(b, page-10, 10)
		if end == nil {
			return false
		}
		head := b[1024:]
		switch {
		case string(end) == "SWAPSPACE2" && (le.Uint32(head) == 1 || be.Uint32(head) == 1) && le.Uint32(head[4:]) != 0,
			string(end) == "SWAP-SPACE",
			string(end[:9]) == "S1SUSPEND", string(end[:9]) == "S2SUSPEND", string(end[:9]) == "ULSUSPEND",
			string(end) == "LINHIB0001":
			return true
		}
	}
	return false
}

// isMD1 finds an md superblock of version 1, which says where it is itself.
func isMD1(b []byte, offset int) bool {
	sb := at(b, offset, 152)
	return sb != nil && le.Uint32(sb) == 0xa92b4efc && le.Uint32(sb[4:]) == 1 && le.Uint64(sb[144:]) == uint64(offset)/512
}

// mdAtEnd finds an md superblock of version 1.0 or 0.90 near the end of the range.
func mdAtEnd(r *io.SectionReader) int64 {
	size := r.Size()
	if old := size&^65535 - 65536; old > 0 {
		if sb := readAt(r, old, 12); sb != nil && (le.Uint32(sb) == 0xa92b4efc && le.Uint32(sb[4:]) == 0 && le.Uint32(sb[8:]) == 90 ||
			be.Uint32(sb) == 0xa92b4efc && be.Uint32(sb[4:]) == 0 && be.Uint32(sb[8:]) == 90) {
			return old
		}
	}
	if end := (size - 8192) &^ 4095; end > 0 {
		if sb := readAt(r, end, 152); sb != nil && le.Uint32(sb) == 0xa92b4efc && le.Uint32(sb[4:]) == 1 && le.Uint64(sb[144:]) == uint64(end)/512 {
			return end
		}
	}
	return 0
}

// isZFS looks for the first label: the head of its list of names and values, in XDR,
// and then its ring of uberblocks, of which, like blkid, it takes four for proof.
func isZFS(b []byte, r *io.SectionReader) bool {
	const list, ring, slot = 16 << 10, 128 << 10, 1 << 10
	if !is(b, list, "\x01\x00\x00\x00") && !is(b, list, "\x01\x01\x00\x00") {
		return false
	}
	n := 0
	for u := readAt(r, ring, ring); len(u) >= slot; u = u[slot:] {
		if le.Uint64(u) == 0x00bab10c || be.Uint64(u) == 0x00bab10c {
			n++
		}
	}
	return n >= 4
}

// bootSector says whether the fields that FAT and NTFS share are possible: the
// jump, sectors of 512 to 4096 bytes, clusters of a power of two.
func bootSector(b []byte) bool {
	s := at(b, 0, 512)
	return s != nil && (s[0] == 0xeb || s[0] == 0xe9) && power2(uint64(le.Uint16(s[11:])), 512, 4096) && (power2(uint64(s[13]), 1, 128) || s[13] >= 0xf0)
}

// isFAT finds a FAT filesystem by its boot sector, which looks like a boot record
// with partitions, and proves it by its first allocation table, whose first entry
// repeats the medium's byte. A boot loader leaves the one without the other.
func isFAT(b []byte, r io.ReaderAt) bool {
	if !bootSector(b) {
		return false
	}
	media, tables, reserved := b[21], b[16], le.Uint16(b[14:])
	if media != 0xf0 && media < 0xf8 || tables == 0 || tables > 4 || reserved == 0 {
		return false
	}
	entry := readAt(r, int64(reserved)*int64(le.Uint16(b[11:])), 3)
	return entry != nil && entry[0] == media && entry[1] == 0xff && entry[2] >= 0xf8
}
