package rootfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	for _, fstype := range AllowList {
		t.Run(fstype, func(t *testing.T) {
			t.Parallel()
			whole := format(t, fstype)
			path := disk(t, sizeOf(t, whole)+4*mib, fmt.Sprintf("label: gpt\n2048,%d\n", (sizeOf(t, whole)+511)/512+8))
			put(t, whole, path, mib)
			fsys, err := Probe(path)
			if err != nil {
				t.Fatal(err)
			}
			before := fingerprint(t, path)
			if err := Check(context.Background(), path, fsys); err != nil {
				t.Errorf("a new one: %v", err)
			}
			// The middle of its metadata is lost.
			zeros := map[string][2]int64{"xfs": {mib + 4096, 60000}, "btrfs": {mib + 20*mib, 60 * mib}, "squashfs": {mib + 96, 200}, "erofs": {mib + 1024 + 128, 1024}}
			at, ok := zeros[fstype]
			if !ok {
				at = [2]int64{extRootAt(t, path, mib), 8192}
			}
			damaged := blank(t, sizeOf(t, path))
			put(t, path, damaged, 0)
			patch(t, damaged, at[0], make([]byte, at[1]))
			err = Check(context.Background(), damaged, fsys)
			if !errors.Is(err, ErrCheck) || !strings.Contains(err.Error(), "mend it with '"+checks[fstype].mend+"'") && !strings.Contains(err.Error(), "write the image anew") {
				t.Errorf("a damaged one: %v", err)
			}
			if after := fingerprint(t, path); after != before {
				t.Error("the check wrote to the image")
			}
			gone(t, path)
			gone(t, damaged)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if err := Check(ctx, path, fsys); err == nil || errors.Is(err, ErrCheck) {
				t.Errorf("without time: %v", err)
			}
		})
	}
	t.Run("no tool", func(t *testing.T) {
		path := format(t, "ext4")
		fsys, _ := Probe(path)
		t.Setenv("PATH", t.TempDir())
		if err := Check(context.Background(), path, fsys); err == nil || !strings.Contains(err.Error(), "install e2fsprogs") {
			t.Error(err)
		}
	})
}

func TestFormat(t *testing.T) {
	for _, fstype := range []string{"ext2", "ext3", "ext4", "xfs", "btrfs"} {
		path := blank(t, sizeFor(fstype))
		if err := Format(context.Background(), path, fstype); err != nil {
			t.Fatal(err)
		}
		if fsys, err := Probe(path); err != nil || fsys.Type != fstype {
			t.Errorf("%s: %+v, %v", fstype, fsys, err)
		}
	}
	if err := Format(context.Background(), blank(t, mib), "ntfs"); err == nil || !strings.Contains(err.Error(), "use one of") {
		t.Error(err)
	}
	if err := Format(context.Background(), blank(t, 4096), "xfs"); err == nil || !strings.Contains(err.Error(), "xfs") {
		t.Error(err)
	}
}

func TestTail(t *testing.T) {
	var end tail
	for i := range 10000 {
		if _, err := io.WriteString(&end, fmt.Sprintf("%05d\n", i)); err != nil {
			t.Fatal(err)
		}
	}
	if len(end.kept) != toolOutput || !strings.HasSuffix(string(end.kept), "09999\n") {
		t.Errorf("%d bytes: %q", len(end.kept), end.kept)
	}
}
