package local

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// BenchmarkImageToVolume makes a volume of an image with 256 MiB of content in
// 1 GiB, by this store and by the tools that one would use instead, in turns. All
// end with the data on disk. It reports the median of each, and the medians of the
// ratios of the turns, where less than 1 means that the store is faster.
//
//	go test -run '^$' -bench ImageToVolume -benchtime 10x ./pkg/volume/local
func BenchmarkImageToVolume(b *testing.B) {
	raw := benchImage(b)
	qcow2 := filepath.Join(b.TempDir(), "image.qcow2")
	qemu(b, "/", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
	for _, kind := range []string{"ext4", "xfs", "btrfs"} {
		args := append(slices.Clone(sharing[kind]), map[string][]string{"ext4": {"-q"}}[kind]...)
		for format, path := range map[string]string{formatRaw: raw, formatQcow2: qcow2} {
			b.Run(kind+"/"+format, func(b *testing.B) {
				fs := filesystem(b, kind, 2048, args...)
				s := open(b, filepath.Join(fs, "state"))
				img, err := s.ImportImage(testCtx(b), volume.ImportImage{Name: "img", Path: path})
				if err != nil {
					b.Fatal(err)
				}
				data := filepath.Join(s.images.path(img.ID), dataName)
				target := filepath.Join(fs, "target")
				convert := func() {
					command(b, "qemu-img", "convert", "-f", format, "-O", "raw", data, target)
					command(b, "truncate", "-s", "1G", target)
					command(b, "sync", target)
				}
				peers := map[string]func(){"qemu-img": convert}
				if format == formatRaw {
					peers["cp"] = func() {
						command(b, "cp", "--sparse=always", "--reflink=auto", data, target)
						command(b, "truncate", "-s", "1G", target)
						command(b, "sync", target)
					}
				}
				var mine []time.Duration
				theirs := map[string][]time.Duration{}
				var last string
				timed := func(do func()) time.Duration {
					command(b, "sync", "-f", fs)
					start := time.Now()
					do()
					return time.Since(start)
				}
				for b.Loop() {
					mine = append(mine, timed(func() { last = volumeOf(b, s, volume.CreateVolume{Size: 1, ImageID: img.ID}).ID }))
					if err := s.DeleteVolume(testCtx(b), last); err != nil {
						b.Fatal(err)
					}
					for name, peer := range peers {
						theirs[name] = append(theirs[name], timed(peer))
						if err := os.Remove(target); err != nil {
							b.Fatal(err)
						}
					}
				}
				b.ReportMetric(0, "ns/op") // the sum of all would say nothing
				b.ReportMetric(median(mine).Seconds()*1000, "lxcboot-ms")
				for name, all := range theirs {
					b.ReportMetric(median(all).Seconds()*1000, name+"-ms")
					ratios := make([]time.Duration, len(all))
					for i := range all {
						ratios[i] = time.Duration(float64(mine[i]) / float64(all[i]) * 1e6)
					}
					b.ReportMetric(float64(median(ratios))/1e6, "lxcboot/"+name)
				}
			})
		}
	}
}

// benchImage makes 1 GiB with four extents of 64 MiB of content.
func benchImage(b *testing.B) string {
	b.Helper()
	content, err := os.ReadFile(fullFile(b, 64<<20))
	if err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.TempDir(), "image.raw")
	f, err := os.Create(path)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for i := range int64(4) {
		if _, err := f.WriteAt(content, i<<28); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Truncate(1 << 30); err != nil {
		b.Fatal(err)
	}
	return path
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}
