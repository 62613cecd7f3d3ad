package rootfs

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/lxcboot/lxcboot/pkg/tty"
)

// This file reads the superblocks of the filesystems that can be a root, by their
// layout in the kernel's headers. Each function returns false when there is no
// mark, and a signature with a flaw when there is one that cannot be believed.

var (
	le         = binary.LittleEndian
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// at is n bytes at an offset, or nil where the data end before.
func at(b []byte, offset, n int) []byte {
	if offset < 0 || n < 0 || offset+n > len(b) {
		return nil
	}
	return b[offset : offset+n]
}

// readAt is n bytes at an offset of the device, or nil.
func readAt(r io.ReaderAt, offset int64, n int) []byte {
	b := make([]byte, n)
	if offset < 0 {
		return nil
	}
	if got, _ := r.ReadAt(b, offset); got != n {
		return nil
	}
	return b
}

func uuidString(b []byte) string {
	if len(b) != 16 || bytes.Equal(b, make([]byte, 16)) {
		return ""
	}
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// label is a name off the disk, fit for a terminal.
func label(b []byte) string {
	s, _, _ := strings.Cut(string(b), "\x00")
	return strings.TrimRight(strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !tty.Printable(r) {
			return '?'
		}
		return r
	}, s), " ")
}

// power2 says whether n is a power of two between lo and hi.
func power2(n, lo, hi uint64) bool { return n >= lo && n <= hi && n&(n-1) == 0 }

// mul is a*b as a size in bytes; what does not fit is as large as can be.
func mul(a, b uint64) int64 {
	if b != 0 && a > (1<<62)/b {
		return 1 << 62
	}
	return int64(a * b)
}

// rawCRC is the checksum of ext4 and erofs: crc32c without the last inversion.
func rawCRC(b []byte) uint32 { return ^crc32.Checksum(b, castagnoli) }

const noChecksum = "its checksum does not hold"

// directory says whether a mode, as an inode has it, is that of a directory.
func directory(mode uint16) bool { return mode&0xf000 == 0x4000 }

// Features of ext that its kinds are told apart by, as e2fsprogs and blkid do.
const (
	extHasJournal    = 0x4
	extRecover       = 0x4
	extJournalDev    = 0x8
	ext64bit         = 0x80
	extMetadataCsum  = 0x400
	ext2Incompat     = 0x2 | 0x10 // filetype, meta_bg
	ext3Incompat     = ext2Incompat | extRecover
	ext23Rocompat    = 0x1 | 0x2 | 0x4 // sparse_super, large_file, btree_dir
	extNotMountAlone = "it is the journal of another filesystem"
	// The kernel would open the device of the host whose number the superblock has.
	extJournalAway = "its journal is on another device, and a root has to be on one (tune2fs -f -O ^has_journal takes it off)"
)

// ext is the superblock of ext2, ext3 and ext4.
func ext(b []byte, r *io.SectionReader) (signature, bool) {
	sb := at(b, 1024, 1024)
	if sb == nil || le.Uint16(sb[56:]) != 0xEF53 {
		return signature{}, false
	}
	compat, incompat, rocompat := le.Uint32(sb[92:]), le.Uint32(sb[96:]), le.Uint32(sb[100:])
	logBlock := le.Uint32(sb[24:])
	blocks := uint64(le.Uint32(sb[4:]))
	if incompat&ext64bit != 0 {
		blocks |= uint64(le.Uint32(sb[336:])) << 32
	}
	kind := "ext4"
	switch {
	case compat&extHasJournal == 0 && incompat&^uint32(ext2Incompat) == 0 && rocompat&^uint32(ext23Rocompat) == 0:
		kind = "ext2"
	case compat&extHasJournal != 0 && incompat&^uint32(ext3Incompat) == 0 && rocompat&^uint32(ext23Rocompat) == 0:
		kind = "ext3"
	}
	s := signature{name: kind, mark: 1024, fs: &Filesystem{
		Type: kind, UUID: uuidString(sb[104:120]), Label: label(sb[120:136]),
		NeedsRecovery: compat&extHasJournal != 0 && incompat&extRecover != 0,
	}}
	inodeSize := uint64(128)
	if le.Uint32(sb[76:]) > 0 { // dynamic revision
		inodeSize = uint64(le.Uint16(sb[88:]))
	}
	switch {
	case rocompat&extMetadataCsum != 0 && rawCRC(sb[:1020]) != le.Uint32(sb[1020:]):
		s.flaw = noChecksum
	case incompat&extJournalDev != 0:
		s.flaw = extNotMountAlone
	case compat&extHasJournal != 0 && le.Uint32(sb[224:]) == 0:
		s.flaw = extJournalAway
	case logBlock > 6, blocks == 0, le.Uint32(sb[0:]) == 0, le.Uint32(sb[32:]) == 0, le.Uint32(sb[40:]) == 0,
		!power2(inodeSize, 128, 1024<<min(logBlock, 6)), uint64(le.Uint32(sb[20:])) >= blocks:
		s.flaw = "its sizes are impossible"
	case le.Uint16(sb[90:]) != 0:
		s.flaw = "it is the backup of one that lies before it"
	default:
		block := uint64(1024) << logBlock
		s.needs = mul(blocks, block)
		s.reach = func() bool { return extRoot(sb, r, block, inodeSize) }
		s.owns = func(offset int64) bool { return offset >= extHead(sb, blocks, block) }
	}
	return s, true
}

// extHead is where what no file has at the beginning of a filesystem ends: the superblock,
// the groups' descriptors, and the blocks that are reserved for more of them.
func extHead(sb []byte, blocks, block uint64) int64 {
	size := uint64(32)
	if le.Uint32(sb[96:])&ext64bit != 0 {
		size = max(size, uint64(le.Uint16(sb[254:])))
	}
	groups := (blocks + uint64(le.Uint32(sb[32:])) - 1) / uint64(le.Uint32(sb[32:]))
	descriptors := (groups*size + block - 1) / block
	return mul(1024/block+1+descriptors+uint64(le.Uint16(sb[206:])), block)
}

// extRoot follows the first group's descriptor to the root directory, inode 2.
func extRoot(sb []byte, r io.ReaderAt, block, inodeSize uint64) bool {
	desc := readAt(r, int64((1024/block+1)*block), 64) // after the superblock's block
	if desc == nil {
		return false
	}
	inodes := uint64(le.Uint32(desc[8:]))
	if le.Uint32(sb[96:])&ext64bit != 0 && le.Uint16(sb[254:]) >= 64 {
		inodes |= uint64(le.Uint32(desc[40:])) << 32
	}
	inode := readAt(r, mul(inodes, block)+int64(inodeSize), 128)
	return inode != nil && inodes != 0 && directory(le.Uint16(inode)) && le.Uint16(inode[26:]) >= 2
}

func xfs(b []byte, r *io.SectionReader) (signature, bool) {
	sb := at(b, 0, 512)
	if sb == nil || string(sb[:4]) != "XFSB" {
		return signature{}, false
	}
	s := signature{name: "xfs", fs: &Filesystem{Type: "xfs", UUID: uuidString(sb[32:48]), Label: label(sb[108:120])}}
	block, sector := uint64(be.Uint32(sb[4:])), uint64(be.Uint16(sb[102:]))
	blocks, agBlocks, groups := be.Uint64(sb[8:]), uint64(be.Uint32(sb[84:])), uint64(be.Uint32(sb[88:]))
	if !power2(block, 512, 65536) || !power2(sector, 512, 32768) || blocks == 0 || blocks > 1<<54 || agBlocks == 0 || groups == 0 ||
		blocks > agBlocks*groups || blocks <= agBlocks*(groups-1) {
		s.flaw = "its sizes are impossible"
		return s, true
	}
	if be.Uint16(sb[100:])&0xf == 5 && !xfsSum(at(b, 0, int(sector))) {
		s.flaw = noChecksum
		return s, true
	}
	if sb[126] != 0 {
		s.flaw = "making it was never finished"
		return s, true
	}
	s.needs = mul(blocks, block)
	s.reach = func() bool { return xfsRoot(sb, r, int64(block), int64(sector), int64(agBlocks)) }
	s.owns = func(offset int64) bool { return offset >= 4*int64(sector) } // the group's headers
	return s, true
}

// xfsSum checks the checksum of a superblock, which fills a sector.
func xfsSum(sector []byte) bool {
	if sector == nil {
		return false
	}
	sum := crc32.New(castagnoli)
	sum.Write(sector[:224])
	sum.Write(make([]byte, 4)) // where the checksum is
	sum.Write(sector[228:])
	return sum.Sum32() == le.Uint32(sector[224:])
}

// xfsRoot looks at the header of the first allocation group, which tells the first
// superblock from its copies, and at the root directory's inode.
func xfsRoot(sb []byte, r io.ReaderAt, block, sector, agBlocks int64) bool {
	agf := readAt(r, sector, 12)
	if agf == nil || string(agf[:4]) != "XAGF" || be.Uint32(agf[8:]) != 0 {
		return false
	}
	ino, inodeSize, perBlock, agLog := be.Uint64(sb[56:]), int64(be.Uint16(sb[104:])), uint(sb[123]), uint(sb[124])
	if perBlock > 8 || agLog > 32 || ino>>(agLog+perBlock) > 1<<31 {
		return false
	}
	inAG := int64(ino & (1<<(agLog+perBlock) - 1))
	fsBlock := int64(ino>>(agLog+perBlock))*agBlocks + inAG>>perBlock
	if fsBlock > (1<<62)/block {
		return false
	}
	inode := readAt(r, fsBlock*block+inAG&(1<<perBlock-1)*inodeSize, 4)
	return inode != nil && string(inode[:2]) == "IN" && directory(be.Uint16(inode[2:]))
}

func btrfs(b []byte, r *io.SectionReader) (signature, bool) {
	sb := at(b, 65536, 4096)
	if sb == nil || string(sb[64:72]) != "_BHRfS_M" {
		return signature{}, false
	}
	s := signature{name: "btrfs", mark: 65536, fs: &Filesystem{Type: "btrfs", UUID: uuidString(sb[32:48]), Label: label(sb[299:555])}}
	sector, nodeSize, devices := uint64(le.Uint32(sb[144:])), uint64(le.Uint32(sb[148:])), le.Uint64(sb[136:])
	switch {
	case !btrfsSum(sb, sb):
		s.flaw = noChecksum
	case le.Uint64(sb[48:]) != 65536, !power2(sector, 512, 65536), !power2(nodeSize, 4096, 65536), devices == 0, le.Uint32(sb[160:]) > 2048, sb[198] > 7, sb[199] > 7:
		s.flaw = "its sizes are impossible"
	case devices > 1:
		s.flaw = fmt.Sprintf("it is spread over %d devices, of which one is here", devices)
	default:
		s.needs = mul(le.Uint64(sb[201+8:]), 1) // this device's part
		s.reach = func() bool { return btrfsRoot(sb, r, nodeSize) }
		s.owns = func(offset int64) bool { return offset >= 1<<20 } // what is before is reserved
	}
	return s, true
}

// btrfsSum checks a block's checksum, by the algorithm that the superblock names. xxhash
// and blake2 are left to the kernel.
func btrfsSum(sb, block []byte) bool {
	switch le.Uint16(sb[196:]) {
	case 0:
		return crc32.Checksum(block[32:], castagnoli) == le.Uint32(block)
	case 2:
		return sha256.Sum256(block[32:]) == [32]byte(block[:32])
	}
	return true
}

// btrfsRoot finds the root of the chunk tree by the superblock's own list of
// chunks, and looks whether it is this filesystem's.
func btrfsRoot(sb []byte, r io.ReaderAt, nodeSize uint64) bool {
	logical := le.Uint64(sb[88:])
	list := sb[811 : 811+min(le.Uint32(sb[160:]), 2048)]
	for len(list) >= 17+48 {
		start, length, stripes := le.Uint64(list[9:]), le.Uint64(list[17:]), int(le.Uint16(list[17+44:]))
		list = list[17+48:]
		for i := 0; i < stripes && len(list) >= 32; i++ {
			physical := le.Uint64(list[8:])
			list = list[32:]
			if logical < start || logical-start >= length || logical-start > 1<<40 || physical > 1<<61 {
				continue
			}
			node := readAt(r, int64(physical+logical-start), int(nodeSize))
			// Its filesystem is that of the metadata, where that differs.
			if node != nil && le.Uint64(node[48:]) == logical && btrfsSum(sb, node) &&
				(bytes.Equal(node[32:48], sb[32:48]) || bytes.Equal(node[32:48], sb[571:587])) {
				return true
			}
		}
	}
	return false
}

func squashfs(b []byte, r *io.SectionReader) (signature, bool) {
	sb := at(b, 0, 96)
	if sb == nil || string(sb[:4]) != "hsqs" {
		return signature{}, false
	}
	s := signature{name: "squashfs", fs: &Filesystem{Type: "squashfs", ReadOnly: true}}
	block, used := uint64(le.Uint32(sb[12:])), le.Uint64(sb[40:])
	ids, inodes, dirs := le.Uint64(sb[48:]), le.Uint64(sb[64:]), le.Uint64(sb[72:])
	switch {
	case le.Uint16(sb[28:]) != 4 || le.Uint16(sb[30:]) != 0:
		s.flaw = fmt.Sprintf("it is of version %d.%d, and the kernel reads 4.0", le.Uint16(sb[28:]), le.Uint16(sb[30:]))
	case !power2(block, 4096, 1<<20), uint64(1)<<min(le.Uint16(sb[22:]), 63) != block, inodes < 96, inodes >= dirs, dirs >= used, ids >= used, le.Uint32(sb[4:]) == 0:
		s.flaw = "its sizes are impossible"
	default:
		s.needs = mul(used, 1)
		// The root's inode lies in a metadata block whose length comes first.
		s.reach = func() bool {
			h := readAt(r, mul(inodes+le.Uint64(sb[32:])>>16, 1), 2)
			return h != nil && le.Uint16(h)&0x7fff != 0 && le.Uint16(h)&0x7fff <= 8192
		}
		s.owns = func(offset int64) bool { return offset >= 96 }
	}
	return s, true
}

func erofs(b []byte, r *io.SectionReader) (signature, bool) {
	sb := at(b, 1024, 128)
	if sb == nil || le.Uint32(sb) != 0xE0F5E1E2 {
		return signature{}, false
	}
	s := signature{name: "erofs", mark: 1024, fs: &Filesystem{Type: "erofs", ReadOnly: true, UUID: uuidString(sb[48:64]), Label: label(sb[64:80])}}
	bits := sb[12]
	switch {
	case bits < 9 || bits > 16:
		s.flaw = "its sizes are impossible"
	case le.Uint32(sb[8:])&1 != 0 && !erofsSum(b, bits):
		s.flaw = noChecksum
	case le.Uint16(sb[86:]) != 0:
		s.flaw = fmt.Sprintf("it is spread over %d more devices, which are not here", le.Uint16(sb[86:]))
	default:
		s.needs = mul(uint64(le.Uint32(sb[36:])), 1<<bits)
		s.reach = func() bool {
			inode := readAt(r, mul(uint64(le.Uint32(sb[40:])), 1<<bits)+int64(le.Uint16(sb[14:]))*32, 32)
			return inode != nil && directory(le.Uint16(inode[4:]))
		}
		s.owns = func(offset int64) bool { return offset >= 1024+128 }
	}
	return s, true
}

// erofsSum checks the checksum of a superblock, which covers its block.
func erofsSum(b []byte, bits byte) bool {
	length := 1 << bits
	if length > 1024 {
		length -= 1024
	}
	data := bytes.Clone(at(b, 1024, length))
	if data == nil {
		return false
	}
	sum := le.Uint32(data[4:])
	clear(data[4:8])
	return rawCRC(data) == sum
}
