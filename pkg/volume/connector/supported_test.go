package connector

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestSupportedNFS holds that mount(8) alone is not taken for an NFS client.
func TestSupportedNFS(t *testing.T) {
	root, bin := t.TempDir(), t.TempDir()
	t.Setenv("PATH", bin)
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	h := New(Options{StateDir: t.TempDir(), Root: root})
	missing := func() string {
		all := h.Supported()
		return all[slices.IndexFunc(all, func(s Support) bool { return s.Driver == "nfs" })].Missing
	}
	for _, tool := range []string{"mount", "umount", "mount.nfs"} {
		write(filepath.Join(bin, tool), "#!/bin/sh\n", 0o755)
	}
	write(filepath.Join(root, "proc/filesystems"), "nodev\tproc\n\text4\n", 0o644)
	if got, want := missing(), "the kernel's filesystem nfs"; got != want {
		t.Errorf("without a driver: %q, not %q", got, want)
	}
	write(filepath.Join(root, "proc/filesystems"), "nodev\tproc\nnodev\tnfs\n", 0o644)
	if got := missing(); got != "" {
		t.Errorf("with all: %q", got)
	}
	if err := os.Remove(filepath.Join(root, "proc/filesystems")); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(root, "proc/sys/kernel/osrelease"), "6.1\n", 0o644)
	write(filepath.Join(root, "lib/modules/6.1/modules.dep"), "kernel/fs/nfs/nfs.ko.xz: kernel/net/sunrpc/sunrpc.ko.xz\n", 0o644)
	if got := missing(); got != "" {
		t.Errorf("with a module: %q", got)
	}
}
