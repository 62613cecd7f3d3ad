package cgroup

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Words are the words of a file of the group; none where it cannot be read.
func (g Group) Words(file string) []string {
	data, err := os.ReadFile(filepath.Join(g.Dir, file))
	if err != nil {
		return nil
	}
	return strings.Fields(string(data))
}

// Number reads a file of one number; "max" is -1, as is what cannot be read.
func (g Group) Number(file string) (int64, bool) {
	w := g.Words(file)
	if len(w) != 1 {
		return -1, false
	}
	n, err := strconv.ParseInt(w[0], 10, 64)
	if err != nil {
		return -1, w[0] == "max"
	}
	return n, true
}

// Field reads the line "name number" of a file.
func (g Group) Field(file, name string) (int64, bool) {
	w := g.Words(file)
	for i := 0; i+1 < len(w); i += 2 {
		if w[i] == name {
			n, err := strconv.ParseInt(w[i+1], 10, 64)
			return n, err == nil
		}
	}
	return -1, false
}

// IO gives the bytes that were read and written, over all devices.
func (g Group) IO() (read, write int64, ok bool) {
	if g.V2() { // lines "8:0 rbytes=4096 wbytes=0 …"
		data, err := os.ReadFile(filepath.Join(g.Dir, "io.stat"))
		for _, w := range strings.Fields(string(data)) {
			k, v, _ := strings.Cut(w, "=")
			n, _ := strconv.ParseInt(v, 10, 64)
			switch k {
			case "rbytes":
				read += n
			case "wbytes":
				write += n
			}
		}
		return read, write, err == nil
	}
	data, err := os.ReadFile(filepath.Join(g.Dir, "blkio.throttle.io_service_bytes_recursive"))
	for line := range strings.Lines(string(data)) { // "8:0 Read 4096"
		w := strings.Fields(line)
		if len(w) != 3 {
			continue
		}
		n, _ := strconv.ParseInt(w[2], 10, 64)
		switch w[1] {
		case "Read":
			read += n
		case "Write":
			write += n
		}
	}
	return read, write, err == nil
}

// Tasks are the threads in the group and below, by their numbers.
func (g Group) Tasks() (tids []string) {
	file := "tasks"
	if g.V2() {
		file = "cgroup.threads"
	}
	_ = filepath.WalkDir(g.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return nil
		}
		if data, err := os.ReadFile(filepath.Join(path, file)); err == nil {
			tids = append(tids, strings.Fields(string(data))...)
		}
		return nil
	})
	return tids
}
