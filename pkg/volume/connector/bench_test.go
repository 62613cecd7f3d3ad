package connector

import (
	"io"
	"os"
	"testing"
)

// BenchmarkThroughput moves 64 MiB, in pieces of 1 MiB, to and from a raw file,
// and the same file through an nbd server and the user space transport. Writes
// end with a flush.
func BenchmarkThroughput(b *testing.B) {
	const size = 64 * MiB
	raw := sparse(b, b.TempDir()+"/raw", size)
	h := newHost(b, Userspace)
	data, _ := nbdVolume(b, size)
	dev := connect(b, h, request("bench", "nbd", data))
	piece := make([]byte, MiB)
	for i := range piece {
		piece[i] = byte(i * 7)
	}
	for _, c := range []struct{ name, path string }{{"file", raw}, {"userspace", dev.Path}} {
		b.Run("write/"+c.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				f, err := os.OpenFile(c.path, os.O_WRONLY, 0)
				if err != nil {
					b.Fatal(err)
				}
				for range size / MiB {
					if _, err := f.Write(piece); err != nil {
						b.Fatal(err)
					}
				}
				if err := f.Sync(); err != nil {
					b.Fatal(err)
				}
				f.Close()
			}
		})
		b.Run("read/"+c.name, func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				f, err := os.Open(c.path)
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, piece); err != nil || n != size {
					b.Fatal(n, err)
				}
				f.Close()
			}
		})
	}
}

// BenchmarkConnect is the time from a connection to a path and back.
func BenchmarkConnect(b *testing.B) {
	h := newHost(b, Userspace)
	data, _ := nbdVolume(b, MiB)
	req := request("bench", "nbd", data)
	for b.Loop() {
		dev, err := h.Prepare(b.Context(), req)
		if err != nil {
			b.Fatal(err)
		}
		if dev, err = h.Connect(b.Context(), req, dev); err != nil {
			b.Fatal(err)
		}
		if err := h.Disconnect(b.Context(), dev); err != nil {
			b.Fatal(err)
		}
	}
}
