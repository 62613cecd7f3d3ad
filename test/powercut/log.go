// Package powercut tells what a power cut would have left of a disk at any moment, and
// holds that against what had been reported done by then.
//
// qemu's filter blklogwrites logs each write and each flush of a disk. From what the disk
// held before, and the log, the disk is rebuilt as it could have been at a moment: with all
// that was flushed until then, and some of what was not, as a disk with a cache has it.
// What was reported by then stands in the log itself: the work (Work) writes each line to
// the disk before it prints it.
package powercut

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
)

// The log has the format of the kernel's dm-log-writes: a superblock of one sector, and
// for each entry a sector that describes it and the data.
const (
	logMagic  = 0x6a736677736872
	flagFlush = 1
)

// entry is one write, or one flush.
type entry struct {
	at, size int64 // on the disk; a flush has no size
	data     int64 // where in the log
}

func (e entry) flush() bool { return e.size == 0 }

// Log is what happened to a disk.
type Log struct {
	file    *os.File
	entries []entry
	lines   []line
}

// line is something that was said, and since when: after so many entries.
type line struct {
	text  string
	since int
}

// ReadLog reads a log that nobody writes to any more.
func ReadLog(path string) (*Log, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	l := &Log{file: f}
	if err := l.read(); err != nil {
		f.Close()
		return nil, fmt.Errorf("the log of writes %s: %w", path, err)
	}
	return l, nil
}

func (l *Log) Close() error { return l.file.Close() }

func (l *Log) read() error {
	var super struct {
		Magic, Version, Entries uint64
		Sector                  uint32
	}
	if err := binary.Read(io.NewSectionReader(l.file, 0, 512), binary.LittleEndian, &super); err != nil {
		return err
	}
	if super.Magic != logMagic || super.Version != 1 || super.Sector < 512 {
		return fmt.Errorf("it is none, but %+v", super)
	}
	sector := int64(super.Sector)
	for pos := sector; uint64(len(l.entries)) < super.Entries; {
		var head struct{ Sector, Sectors, Flags, DataLen uint64 }
		if err := binary.Read(io.NewSectionReader(l.file, pos, sector), binary.LittleEndian, &head); err != nil {
			return err
		}
		pos += sector
		// The machine's disk is one that knows neither discards nor zeroes.
		if head.Flags&^flagFlush != 0 || head.Flags == flagFlush && head.Sectors != 0 {
			return fmt.Errorf("entry %d has the flags %#x, which are none of a plain write or flush", len(l.entries), head.Flags)
		}
		e := entry{at: int64(head.Sector) * sector, size: int64(head.Sectors) * sector, data: pos}
		pos += e.size
		l.entries = append(l.entries, e)
		if err := l.hear(e); err != nil {
			return err
		}
	}
	return nil
}

// hear notes what is said by an entry.
func (l *Log) hear(e entry) error {
	if e.size != lineSize {
		return nil
	}
	b := make([]byte, lineSize)
	if _, err := l.file.ReadAt(b, e.data); err != nil {
		return err
	}
	text, ours := strings.CutPrefix(string(bytes.TrimSpace(b)), linePrefix)
	if !ours {
		return nil
	}
	number, text, _ := strings.Cut(text, " ")
	if number != fmt.Sprint(len(l.lines)) {
		return fmt.Errorf("line %d was expected: %s %s", len(l.lines), number, text)
	}
	l.lines = append(l.lines, line{text, len(l.entries)})
	return nil
}

// said is what had been said after so many entries.
func (l *Log) said(entries int) []string {
	var said []string
	for _, line := range l.lines {
		if line.since <= entries {
			said = append(said, line.text)
		}
	}
	return said
}

// moments chooses moments amid what was said, each a number of entries, in order: every
// other one is that at which a line had just been said.
func (l *Log) moments(rng *rand.Rand, count int) []int {
	var moments []int
	last := len(l.lines) - 1
	for i := range count {
		line := 0
		if last > 0 {
			line = (i*last)/count + rng.IntN(max(1, last/count))
		}
		from, to := l.lines[line].since, len(l.entries)
		if line < last {
			to = l.lines[line+1].since
		}
		if i%2 == 1 {
			from += rng.IntN(max(1, to-from))
		}
		moments = append(moments, from)
	}
	slices.Sort(moments)
	return moments
}

// disk is what a logged disk held before the log's first entry, in a file, and is brought
// from one moment to a later one.
type disk struct {
	log     *Log
	file    *os.File
	applied int // entries
	undo    []old
}

// old is what was at a place before something loose was written there.
type old struct {
	at   int64
	data []byte
}

// openDisk opens the file that holds what the disk held when the log began.
func (l *Log) openDisk(path string) (*disk, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	return &disk{log: l, file: f}, err
}

// block is what a disk writes whole or not at all.
const block = 4096

// cut makes the disk what it could have been when the power went after so many entries:
// with all that was flushed, and each other block with the likelihood that is given. It
// says how many blocks there were that were not flushed, and how many are lost.
func (d *disk) cut(entries int, rng *rand.Rand, kept float64) (loose, lost int, err error) {
	for _, o := range slices.Backward(d.undo) {
		if _, err := d.file.WriteAt(o.data, o.at); err != nil {
			return 0, 0, err
		}
	}
	d.undo = nil
	flushed := entries
	for flushed > 0 && !d.log.entries[flushed-1].flush() {
		flushed--
	}
	for ; d.applied < flushed; d.applied++ {
		e := d.log.entries[d.applied]
		if _, err := io.Copy(io.NewOffsetWriter(d.file, e.at), io.NewSectionReader(d.log.file, e.data, e.size)); err != nil {
			return 0, 0, err
		}
	}
	for _, e := range d.log.entries[d.applied:entries] {
		for from := int64(0); from < e.size; from += block {
			loose++
			if rng.Float64() >= kept {
				lost++
				continue
			}
			if err := d.write(e, from, min(block, e.size-from)); err != nil {
				return 0, 0, err
			}
		}
	}
	return loose, lost, nil
}

// write writes a part of an entry, until the next cut.
func (d *disk) write(e entry, from, size int64) error {
	before, now := make([]byte, size), make([]byte, size)
	if _, err := d.file.ReadAt(before, e.at+from); err != nil {
		return err
	}
	d.undo = append(d.undo, old{e.at + from, before})
	if _, err := d.log.file.ReadAt(now, e.data+from); err != nil {
		return err
	}
	_, err := d.file.WriteAt(now, e.at+from)
	return err
}

// Result is what was seen at some moments.
type Result struct {
	Moments, Lines, Loose, Lost int
	Wrong                       []string
}

func (r Result) String() string {
	return fmt.Sprintf("%d moments, %d lines held against them, %d of %d blocks lost that were not flushed", r.Moments, r.Lines, r.Lost, r.Loose)
}

// Try makes the disk, whose file holds what it held before, what it could have been at some
// moments, and has each looked at: look says what is wrong, after what had been said.
func (l *Log) Try(path string, count int, look func(said []string) (wrong []string, err error)) (r Result, err error) {
	disk, err := l.openDisk(path)
	if err != nil {
		return r, err
	}
	defer disk.file.Close()
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	for _, at := range l.moments(rng, count) {
		kept := []float64{0, 0.5, 1}[rng.IntN(3)]
		loose, lost, err := disk.cut(at, rng, kept)
		if err != nil {
			return r, err
		}
		said := l.said(at)
		wrong, err := look(said)
		if err != nil {
			wrong = append(wrong, err.Error())
		}
		for _, w := range wrong {
			r.Wrong = append(r.Wrong, fmt.Sprintf("seed %d, moment %d, after %q, %d blocks not flushed and %d of them lost: %s", seed, at, said[len(said)-1], loose, lost, w))
		}
		r.Moments, r.Lines, r.Loose, r.Lost = r.Moments+1, r.Lines+len(said), r.Loose+loose, r.Lost+lost
	}
	return r, nil
}
