package connector

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"golang.org/x/sys/unix"
)

// fakeNFS stands in for the kernel's NFS client, which this host may not have:
// the mount is a bind mount of a directory of this host. All else is real.
type fakeNFS struct {
	mu     sync.Mutex
	mounts [][]string // argv of each
	fail   error
}

func (f *fakeNFS) run(ctx context.Context, argv ...string) (string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if argv[0] == "sync" {
		return Run(ctx, argv...)
	}
	if f.fail != nil {
		return "", f.fail
	}
	f.mounts = append(f.mounts, argv)
	export, target := argv[len(argv)-2], argv[len(argv)-1]
	_, dir, _ := strings.Cut(export, ":")
	return "", unix.Mount(dir, target, "", unix.MS_BIND, "")
}

func nfsHost(t testing.TB) (*Host, *fakeNFS, string) {
	h := newHost(t, Auto)
	f := &fakeNFS{}
	h.o.Run = f.run
	dir := t.TempDir()
	return h, f, dir
}

func nfsData(dir, name, format string) map[string]any {
	return map[string]any{"export": "127.0.0.1:" + dir, "name": name, "format": format, "options": "-o vers=4.1,soft"}
}

func TestNFS(t *testing.T) {
	h, f, dir := nfsHost(t)
	sparse(t, dir+"/raw", 64*MiB)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", dir+"/qcow2", "64M")
	var devs []Device
	for _, format := range []string{"raw", "qcow2"} {
		dev := connect(t, h, request("nfs-"+format, "nfs", nfsData(dir, format, format)))
		useVolume(t, dev.Path)
		devs = append(devs, dev)
	}
	if len(f.mounts) != 1 {
		t.Errorf("mounted %d times", len(f.mounts))
	}
	want := "mount -t nfs -o retry=0,vers=4.1,soft,nosuid,nodev,noexec -- 127.0.0.1:" + dir
	if got := strings.Join(f.mounts[0], " "); !strings.HasPrefix(got, want+" ") {
		t.Errorf("got %s", got)
	}
	for i, dev := range devs {
		for range 2 { // a second time counts for nothing
			if err := h.Disconnect(t.Context(), dev); err != nil {
				t.Fatal(err)
			}
		}
		mounted, err := h.share("127.0.0.1:"+dir, "vers=4.1,soft").mounted()
		if err != nil || mounted != (i == 0) {
			t.Errorf("after %d of 2: mounted %v, %v", i+1, mounted, err)
		}
	}
	if !hasExt4(t, dir+"/raw") {
		t.Error("the raw file does not hold what was written")
	}
	run(t, "qemu-img", "check", "-q", "-f", "qcow2", dir+"/qcow2")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", dir+"/qcow2", dir+"/converted")
	if !hasExt4(t, dir+"/converted") {
		t.Error("the qcow2 file does not hold what was written")
	}
}

// TestNFSRawIsNeverGuessed holds that a container that writes a qcow2 header
// into its raw volume reads that header back, and no file it names.
func TestNFSRawIsNeverGuessed(t *testing.T) {
	h, _, dir := nfsHost(t)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", "-u", dir+"/volume", "1M")
	dev := connect(t, h, request("g1", "nfs", nfsData(dir, "volume", "raw")))
	b, err := os.ReadFile(dev.Path)
	if err != nil || string(b[:4]) != "QFI\xfb" {
		t.Errorf("got %q, %v", b[:4], err)
	}
}

func TestNFSParallel(t *testing.T) {
	h, f, dir := nfsHost(t)
	var wg sync.WaitGroup
	for i := range 8 {
		id := "p" + string(rune('0'+i))
		sparse(t, dir+"/"+id, MiB)
		wg.Go(func() {
			req := request(id, "nfs", nfsData(dir, id, "raw"))
			for range 5 {
				dev, err := h.Prepare(t.Context(), req)
				if err == nil {
					dev, err = h.Connect(t.Context(), req, dev)
				}
				if err == nil {
					err = os.WriteFile(dev.Path, []byte(id), 0)
				}
				if err == nil {
					err = h.Disconnect(t.Context(), dev)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(f.mounts) == 0 {
		t.Error("nothing was mounted")
	}
}

func TestNFSFailures(t *testing.T) {
	h, f, dir := nfsHost(t)
	sparse(t, dir+"/volume", MiB)
	os.Symlink("/etc/passwd", dir+"/link")
	for name, says := range map[string]string{"none": "no such volume file", "link": "not a regular file"} {
		req := request("f1", "nfs", nfsData(dir, name, "raw"))
		dev, err := h.Prepare(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Connect(t.Context(), req, dev); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	f.fail = &CommandError{Argv: []string{"mount"}, Code: 32, Stderr: "mount.nfs: Connection timed out"}
	req := request("f2", "nfs", nfsData(dir, "volume", "raw"))
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.Connect(t.Context(), req, dev); err == nil || !strings.Contains(err.Error(), "Connection timed out") {
		t.Error(err)
	}
	// A file in use is not let go, whether the mount is its alone or another's too.
	f.fail = nil
	dev = connect(t, h, req)
	sparse(t, dir+"/other", MiB)
	other := connect(t, h, request("f3", "nfs", nfsData(dir, "other", "raw")))
	loop := losetup(t, dev.Path)
	for range 2 {
		if err := h.Disconnect(t.Context(), dev); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), loop) {
			t.Errorf("got %v", err)
		}
		if err := h.Disconnect(t.Context(), other); err != nil {
			t.Error(err)
		}
	}
	// One who is about to let go is waited for.
	let := time.AfterFunc(300*time.Millisecond, func() { run(t, "losetup", "-d", loop) })
	defer let.Stop()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Errorf("a loop device that goes: %v", err)
	}
	dev = connect(t, h, req)
	// Somebody else unmounted it, or the host was started anew: that is done.
	unix.Unmount(filepath.Dir(dev.Path), unix.MNT_DETACH)
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Error(err)
	}
}

// TestMountCommand holds that mount(8) understands how it is called, and that its
// refusal is an error: with or without a mount.nfs, nobody serves this export.
func TestMountCommand(t *testing.T) {
	out, err := Run(t.Context(), "mount", "-t", "nfs", "-o", "nosuid", "--", "127.0.0.1:/nonexistent-export", t.TempDir())
	if exitCode(err) != 32 || out != "" {
		t.Errorf("got %q, %v", out, err)
	}
	if err != nil && strings.Contains(err.Error(), "usage") {
		t.Error(err)
	}
}

func TestNFSOptions(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		"-o vers=4":                    "vers=4",
		"-overs=4,minorversion=1 soft": "vers=4,minorversion=1,soft",
		"-o sec=krb5p -o noatime":      "sec=krb5p,noatime",
	} {
		if got, err := nfsOptions(in); err != nil || got != want {
			t.Errorf("%q: %q, %v", in, got, err)
		}
	}
	for _, in := range []string{"suid", "-o dev", "-o bind", "remount", "-t ext4", "--bind", "-o vers=4 /etc", "-o x-systemd.automount", "-o port=$(id)"} {
		if got, err := nfsOptions(in); err == nil {
			t.Errorf("%q was let through as %q", in, got)
		}
	}
}

func FuzzNFSOptions(f *testing.F) {
	f.Add("-o vers=4,soft")
	f.Add("--bind /a /b")
	f.Fuzz(func(t *testing.T, s string) {
		got, err := nfsOptions(s)
		if err != nil {
			return
		}
		if strings.HasPrefix(got, "-") || strings.ContainsAny(got, " \t\n\x00") {
			t.Errorf("%q became %q", s, got)
		}
	})
}

func FuzzCheckExport(f *testing.F) {
	f.Add("10.0.0.1:/srv/nfs")
	f.Add("[fd00::1]:/srv/nfs")
	f.Add("-o:/x/../y")
	f.Fuzz(func(t *testing.T, s string) {
		if checkExport(s) == nil && (strings.HasPrefix(s, "-") || strings.Contains(s, "..") && strings.Contains(s, "/../") || strings.ContainsAny(s, " ,\n\x00")) {
			t.Errorf("let %q through", s)
		}
	})
}

func TestExports(t *testing.T) {
	for export, ok := range map[string]bool{
		"10.0.0.1:/srv/nfs": true, "[fd00::1]:/srv/nfs": true, "nas.example.org:/": true, "nas:/vol..1/x": true,
		"": false, "/srv": false, "nas:srv": false, "-nas:/srv": false, "nas:/srv/..": false, "nas:/a b": false, "nas:/a,b": false,
	} {
		if err := checkExport(export); (err == nil) != ok {
			t.Errorf("%q: %v", export, err)
		}
	}
}

func TestQcow2Chain(t *testing.T) {
	h, _, dir := nfsHost(t)
	img := func(argv ...string) { run(t, append([]string{"qemu-img", "create", "-q", "-f", "qcow2"}, argv...)...) }
	// A snapshot chain as Cinder's NFS driver makes it.
	sparse(t, dir+"/base", 16*MiB)
	os.WriteFile(dir+"/base", append([]byte("from the base"), make([]byte, 16*MiB-13)...), 0o600)
	img("-b", "base", "-F", "raw", dir+"/middle")
	img("-b", "middle", "-F", "qcow2", dir+"/top")
	dev := connect(t, h, request("q1", "nfs", nfsData(dir, "top", "qcow2")))
	b, err := os.ReadFile(dev.Path)
	if err != nil || string(b[:13]) != "from the base" {
		t.Errorf("got %q, %v", b[:13], err)
	}
	f, _ := os.OpenFile(dev.Path, os.O_RDWR, 0)
	f.WriteString("written above")
	f.Close()
	if err := h.Disconnect(t.Context(), dev); err != nil {
		t.Fatal(err)
	}
	if b, _ := os.ReadFile(dir + "/base"); string(b[:13]) != "from the base" {
		t.Errorf("the base was written: %q", b[:13])
	}

	img("-b", "/etc/passwd", "-F", "raw", "-u", dir+"/absolute", "1M")
	img("-b", "nbd://127.0.0.1/x", "-F", "raw", "-u", dir+"/remote", "1M")
	img("-b", "base", "-F", "raw", dir+"/unsaid")
	clearBackingFormat(t, dir+"/unsaid")
	img("-o", "data_file="+dir+"/data", dir+"/external", "1M")
	img("-b", "loop", "-F", "qcow2", "-u", dir+"/loop", "1M")
	sparse(t, dir+"/nothing", MiB)
	for name, says := range map[string]string{
		"absolute": "not a plain name", "remote": "not a plain name", "unsaid": "does not guess",
		"external": "in another file", "loop": "more than 64", "nothing": "signature",
	} {
		req := request("q2", "nfs", nfsData(dir, name, "qcow2"))
		dev, err := h.Prepare(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := h.Connect(t.Context(), req, dev); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// clearBackingFormat makes a header as old tools wrote it: the extension becomes
// one that nobody knows.
func clearBackingFormat(t *testing.T, path string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+4 < 4096; i += 8 {
		if binary.BigEndian.Uint32(b[i:]) == 0xE2792ACA {
			binary.BigEndian.PutUint32(b[i:], 0x12345678)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
	t.Fatal("no backing format in the header")
}
