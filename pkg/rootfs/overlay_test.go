package rootfs

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// TestOverlay makes each type writable, over memory and over a disk, for a container with
// ids of its own and for one without: what is written there reaches nothing of the lower
// side, and a disk keeps it.
func TestOverlay(t *testing.T) {
	for _, fstype := range []string{"squashfs", "erofs", "ext4", "xfs"} {
		for _, mapped := range []*IDMap{ids, nil} {
			for _, over := range []string{"memory", "disk"} {
				name := fstype + " " + over
				if mapped != nil {
					name += " mapped"
				}
				t.Run(name, func(t *testing.T) {
					t.Parallel()
					var from []string
					if fstype == "ext4" {
						from = []string{"-d", tree(t)}
					}
					image, disk := format(t, fstype, from...), format(t, "ext4")
					before := fingerprint(t, image)
					run := t.TempDir()
					// The container's root has to get there.
					if err := errors.Join(os.Chmod(filepath.Dir(run), 0o711), os.Chmod(run, 0o711)); err != nil {
						t.Fatal(err)
					}
					at := func(name string) string {
						dir := filepath.Join(run, name)
						if err := os.Mkdir(dir, 0o700); err != nil && !os.IsExist(err) {
							t.Fatal(err)
						}
						t.Cleanup(func() {
							if err := Unmount(dir); err != nil {
								t.Error(err)
							}
						})
						return dir
					}
					noLoops(t, image)
					noLoops(t, disk)
					lower, upper, root := at("lower"), at("upper"), at("root")
					mount := func() {
						t.Helper()
						fsys, err := Probe(image)
						if err == nil {
							err = Mount(context.Background(), image, fsys, lower, MountOptions{ReadOnly: true, IDMap: mapped})
						}
						if err != nil {
							t.Fatal(err)
						}
						var side, top unix.Stat_t
						if err := unix.Stat(lower, &side); err != nil {
							t.Fatal(err)
						}
						if over == "memory" {
							err = MountMemory(upper, 8*mib)
							var st unix.Statfs_t
							if err := errors.Join(err, unix.Statfs(upper, &st), unix.Stat(upper, &top)); err != nil || int64(st.Blocks)*st.Bsize != 8*mib || top.Mode&0o7777 != 0o700 {
								t.Errorf("the memory is of %d bytes and mode %o: %v", int64(st.Blocks)*st.Bsize, top.Mode, err)
							}
						} else if fsys, err = Probe(disk); err == nil {
							err = Mount(context.Background(), disk, fsys, upper, MountOptions{})
						}
						if err == nil {
							err = Overlay(lower, upper, root)
						}
						for _, dir := range []string{lower, upper} {
							if err == nil {
								err = Unmount(dir)
							}
						}
						if err != nil {
							t.Fatal(err)
						}
						if err := unix.Stat(root, &top); err != nil || top.Mode != side.Mode {
							t.Errorf("the root has the mode %o, and below it %o: %v", top.Mode, side.Mode, err)
						}
						m := mountOf(t, root)
						if !slices.Contains(strings.Split(m.Options, ","), "nodev") || !slices.Contains(strings.Split(m.VFSOptions, ","), "redirect_dir=nofollow") {
							t.Errorf("it is mounted with %s, %s", m.Options, m.VFSOptions)
						}
					}
					mount()
					owner := 0
					if mapped != nil {
						owner = int(mapped.HostID)
					}
					if err := WriteFile(root, File{Path: "/etc/new", Data: []byte("new"), Mode: 0o644}, mapped); err != nil {
						t.Fatal(err)
					}
					if fstype != "xfs" { // an empty one
						inside(t, mapped, root, "echo changed >sbin/init")
					}
					inside(t, mapped, root, "mkdir -p .oldroot && rm -r .oldroot && touch own")
					for name, uid := range map[string]int{"": owner, "etc/new": owner, "own": owner} {
						var st unix.Stat_t
						if err := unix.Stat(filepath.Join(root, name), &st); err != nil || int(st.Uid) != uid || int(st.Gid) != uid {
							t.Errorf("/%s belongs to %d:%d, %v", name, st.Uid, st.Gid, err)
						}
					}
					if err := Unmount(root); err != nil {
						t.Fatal(err)
					}
					gone(t, disk) // a container that begins beside this has its mounts for a moment
					mount()
					if _, err := os.Stat(filepath.Join(root, "own")); (err == nil) != (over == "disk") {
						t.Errorf("the second time: %v", err)
					}
					if err := Unmount(root); err != nil {
						t.Fatal(err)
					}
					gone(t, image)
					gone(t, disk)
					if fingerprint(t, image) != before {
						t.Error("the lower side was written to")
					}
				})
			}
		}
	}
}

// mountOf is what is mounted at a directory.
func mountOf(t *testing.T, dir string) *mountinfo.Info {
	t.Helper()
	all, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(dir))
	if err != nil || len(all) != 1 {
		t.Fatalf("mounted at %s: %v, %v", dir, all, err)
	}
	return all[0]
}

// inside runs a script in a directory as the root of a container.
func inside(t *testing.T, ids *IDMap, dir, script string) {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-ec", script)
	cmd.Dir = dir
	if ids != nil {
		m := []syscall.SysProcIDMap{{HostID: int(ids.HostID), Size: int(ids.Count)}}
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: m, GidMappings: m, Credential: &syscall.Credential{NoSetGroups: true}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%s: %v\n%s", script, err, out)
	}
}
