package local

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/qcow2"
)

// The formats of images. Anything else is refused.
const (
	formatRaw   = "raw"
	formatQcow2 = "qcow2"
	formatVMDK  = "vmdk"
	formatVHDX  = "vhdx"
	formatVDI   = "vdi"
)

var formats = []string{formatRaw, formatQcow2, formatVMDK, formatVHDX, formatVDI}

// inspection is what an image file's own content says of it.
type inspection struct {
	Format      string
	VirtualSize int64 // bytes
	Unclean     bool  // a qcow2 that its writer did not close
}

// inspect finds out what an image file is, from its content alone, and refuses
// what would make a reader of the image open some other file, as in
// CVE-2022-47951, CVE-2024-32498 and their kin, and what can not be read without
// a key. qemu-img comes only after this.
func inspect(r io.ReaderAt, size int64) (inspection, error) {
	if size == 0 {
		return inspection{}, failure.Invalid("it is empty")
	}
	format, err := detect(r, size)
	if err != nil {
		return inspection{}, err
	}
	in := inspection{Format: format}
	switch format {
	case formatRaw:
		in.VirtualSize = size
	case formatQcow2:
		in.VirtualSize, in.Unclean, err = inspectQcow2(r)
	case formatVMDK:
		in.VirtualSize, err = inspectVMDK(r)
	case formatVHDX:
		in.VirtualSize, err = inspectVHDX(r)
	case formatVDI:
		in.VirtualSize, err = inspectVDI(r, size)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = failure.Invalid("it begins as %s and then breaks off", format)
	}
	if err != nil {
		return inspection{}, err
	}
	if in.VirtualSize <= 0 || in.VirtualSize > MaxSize<<30 {
		return inspection{}, failure.Invalid("it describes a disk of %d bytes, which is not between 1 byte and %d GiB", uint64(in.VirtualSize), MaxSize)
	}
	return in, nil
}

// signatures are those of formats that must not pass for raw. Where format is empty, it
// is no format for images here, and said and convert make the refusal.
var signatures = []struct {
	offset  int64 // from the end when negative
	magic   string
	format  string
	said    string
	convert string // qemu-img's name of a format that it can convert
}{
	{0, qcow2.Magic + "\x00\x00\x00\x02", formatQcow2, "", ""},
	{0, qcow2.Magic + "\x00\x00\x00\x03", formatQcow2, "", ""},
	{0, qcow2.Magic, "", "an old qcow image", "qcow"},
	{0, "KDMV", formatVMDK, "", ""},
	{0, "vhdxfile", formatVHDX, "", ""},
	{0x40, "\x7f\x10\xda\xbe", formatVDI, "", ""},
	{0, "COWD", "", "an old vmdk image of ESX", "vmdk"},
	{0, "conectix", "", "a vhd image", "vpc"},
	{-512, "conectix", "", "a vhd image", "vpc"},
	{0, "QED\x00", "", "a qed image", "qed"},
	{0, "WithoutFreeSpace", "", "a parallels image", "parallels"},
	{0, "WithouFreSpacExt", "", "a parallels image", "parallels"},
	{0, "Bochs Virtual HD Image", "", "a bochs image", "bochs"},
	{0, "#!/bin/sh\n#V2.0 Format\n", "", "a cloop image", "cloop"},
	{-512, "koly", "", "a dmg image", "dmg"},
	{0, "LUKS\xba\xbe", "", "encrypted (LUKS), and there is no key to read it with; decrypt it first", ""},
}

// vmdkText begins a vmdk descriptor, a text that names the files with the data.
var vmdkText = regexp.MustCompile(`(?i)^\s*(#[^\n]*\n\s*)*(#\s*disk\s+descriptor\s*file|version\s*=\s*[123]\s*\n)`)

// detect tells the format by its signature. What has none is raw.
func detect(r io.ReaderAt, size int64) (string, error) {
	for _, sig := range signatures {
		at := sig.offset
		if at < 0 {
			at += size
		}
		got := make([]byte, len(sig.magic))
		if at < 0 || at+int64(len(got)) > size {
			continue
		}
		if _, err := r.ReadAt(got, at); err != nil && err != io.EOF {
			return "", fmt.Errorf("reading it: %w", err)
		}
		switch {
		case string(got) != sig.magic:
		case sig.format != "":
			return sig.format, nil
		case sig.convert != "":
			return "", failure.Invalid("it is %s; convert it with 'qemu-img convert -f %s -O qcow2 OLD NEW' first", sig.said, sig.convert)
		default:
			return "", failure.Invalid("it is %s", sig.said)
		}
	}
	head := make([]byte, min(size, 4096))
	if _, err := r.ReadAt(head, 0); err != nil && err != io.EOF {
		return "", fmt.Errorf("reading it: %w", err)
	}
	if vmdkText.Match(head) {
		return "", failure.Invalid("it is a vmdk descriptor, which names other files; convert the disk with 'qemu-img convert -f vmdk -O qcow2 OLD NEW' first")
	}
	return formatRaw, nil
}

// packing names the compression of a file that somebody forgot to unpack.
func packing(head []byte) string {
	for magic, name := range map[string]string{"\x1f\x8b": "gzip", "\xfd7zXZ\x00": "xz", "\x28\xb5\x2f\xfd": "zstd", "BZh": "bzip2", "PK\x03\x04": "zip"} {
		if strings.HasPrefix(string(head), magic) {
			return name
		}
	}
	return ""
}

// field reads n bytes of a header.
func field(r io.ReaderAt, offset int64, n int) ([]byte, error) {
	b := make([]byte, n)
	if got, err := r.ReadAt(b, offset); got < n {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return b, nil
}

var (
	vmdkType   = regexp.MustCompile(`(?im)^\s*createType\s*=\s*"?([^"\r\n]*)"?`)
	vmdkParent = regexp.MustCompile(`(?im)^\s*parentFileNameHint\s*=`)
	vmdkCID    = regexp.MustCompile(`(?im)^\s*parentCID\s*=\s*([0-9a-f]*)`)
	vmdkExtent = regexp.MustCompile(`(?im)^\s*(RW|RDONLY|NOACCESS)\s+\d+\s+([A-Z]+)\b.*$`)
)

// inspectVMDK reads the header of a sparse extent and the descriptor within it,
// as VMware's "Virtual Disk Format 5.0" has them. Only the two kinds that are one
// file are taken.
func inspectVMDK(r io.ReaderAt) (int64, error) {
	h, err := field(r, 0, 44)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	capacity, at, length := le.Uint64(h[12:]), le.Uint64(h[28:]), le.Uint64(h[36:])
	if capacity == 0 || at == 0 || length == 0 {
		return 0, failure.Invalid("it is a vmdk image whose data is in other files; convert it with 'qemu-img convert -f vmdk -O qcow2 OLD NEW' first")
	}
	if capacity > MaxSize<<30/512 || at > 1<<40 || length > 2048 {
		return 0, failure.Invalid("it is a vmdk image with absurd sizes (%d sectors, descriptor of %d sectors at %d)", capacity, length, at)
	}
	text, err := field(r, int64(at)*512, int(length)*512)
	if err != nil {
		return 0, err
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	kind := vmdkType.FindSubmatch(text)
	if kind == nil {
		return 0, failure.Invalid("it is a vmdk image that does not say its type")
	}
	switch strings.ToLower(string(kind[1])) {
	case "monolithicsparse", "streamoptimized":
	default:
		return 0, failure.Invalid("it is a vmdk image of type %q, which may name other files; only monolithicSparse and streamOptimized are one file", kind[1])
	}
	if cid := vmdkCID.FindSubmatch(text); vmdkParent.Match(text) || cid != nil && !strings.EqualFold(string(cid[1]), "ffffffff") {
		return 0, failure.Invalid("it is a vmdk image that is the difference to a parent, which is not part of it; flatten it first")
	}
	extents := vmdkExtent.FindAllSubmatch(text, -1)
	if len(extents) != 1 || !strings.EqualFold(string(extents[0][2]), "SPARSE") {
		return 0, failure.Invalid("it is a vmdk image with %d extents, where one sparse extent is allowed", len(extents))
	}
	return int64(capacity) * 512, nil
}

// inspectVDI reads VirtualBox's header.
func inspectVDI(r io.ReaderAt, size int64) (int64, error) {
	h, err := field(r, 0, 0x1c8)
	if err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	if kind := le.Uint32(h[0x4c:]); kind != 1 && kind != 2 {
		return 0, failure.Invalid("it is a vdi image of type %d; only dynamic (1) and static (2) ones stand alone", kind)
	}
	if !allZero(h[0x1a8:0x1c8]) {
		return 0, failure.Invalid("it is a vdi image that is the difference to a parent, which is not part of it; flatten it first")
	}
	data, block, blocks := int64(le.Uint32(h[0x158:])), int64(le.Uint32(h[0x178:])), int64(le.Uint32(h[0x184:]))
	if block != 1<<20 { // the only size that there is, to QEMU as well
		return 0, failure.Invalid("it is a vdi image with blocks of %d bytes", block)
	}
	if data+blocks*block > size {
		return 0, io.ErrUnexpectedEOF
	}
	return int64(le.Uint64(h[0x170:])), nil
}

// The names of VHDX things, as they are on disk ([MS-VHDX] 2.2.3 and 2.6).
var (
	vhdxMetadata  = guid(0x8b7ca206, 0x4790, 0x4b9a, "\xb8\xfe\x57\x5f\x05\x0f\x88\x6e")
	vhdxFileParam = guid(0xcaa16737, 0xfa36, 0x4d43, "\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b")
	vhdxDiskSize  = guid(0x2fa54224, 0xcd1b, 0x4876, "\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8")
	vhdxParent    = guid(0xa8d35f2d, 0xb30b, 0x454d, "\xab\xf7\xd3\xd8\x48\x34\xab\x0c")
)

func guid(a uint32, b, c uint16, d string) string {
	le := binary.LittleEndian
	return string(append(le.AppendUint16(le.AppendUint16(le.AppendUint32(nil, a), b), c), d...))
}

// inspectVHDX finds the metadata through the first region table, as QEMU does.
func inspectVHDX(r io.ReaderAt) (int64, error) {
	le := binary.LittleEndian
	table := func(at int64, magic string, head, count int) (entries []string, err error) {
		h, err := field(r, at, 64<<10)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(h, []byte(magic)) {
			return nil, failure.Invalid("it is a vhdx image without its %q table", magic)
		}
		n := int(le.Uint16(h[count:]))
		if n > 2047 {
			return nil, failure.Invalid("it is a vhdx image with %d entries in its %q table, which can not be", n, magic)
		}
		for i := range n {
			entries = append(entries, string(h[head+32*i:][:32]))
		}
		return entries, nil
	}
	regions, err := table(192<<10, "regi", 16, 8)
	if err != nil {
		return 0, err
	}
	for _, region := range regions {
		if !strings.HasPrefix(region, vhdxMetadata) {
			continue
		}
		base := int64(le.Uint64([]byte(region[16:])))
		if base < 0 || base > 1<<60 {
			return 0, failure.Invalid("it is a vhdx image with its metadata at %d", base)
		}
		items, err := table(base, "metadata", 32, 10)
		if err != nil {
			return 0, err
		}
		size := int64(0)
		for _, item := range items {
			value, err := field(r, base+int64(le.Uint32([]byte(item[16:]))), 8)
			if err != nil {
				return 0, err
			}
			switch {
			case strings.HasPrefix(item, vhdxParent), strings.HasPrefix(item, vhdxFileParam) && le.Uint32(value[4:])&2 != 0:
				return 0, failure.Invalid("it is a vhdx image that is the difference to a parent, which is not part of it; flatten it first")
			case strings.HasPrefix(item, vhdxDiskSize):
				size = int64(le.Uint64(value))
			}
		}
		return size, nil
	}
	return 0, failure.Invalid("it is a vhdx image without metadata")
}
