package lvm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// said is what a command of lvm2 was asked and answered.
type said struct {
	Argv   []string `json:"argv"`
	Stdout string   `json:"stdout,omitempty"`
	Error  string   `json:"error,omitempty"`
}

// recording is a run of the real lvm2, which is replayed where there is no device-mapper.
type recording struct {
	Version string            `json:"version"` // of lvm2
	Device  string            `json:"device"`  // the UUID that device-mapper had of a volume
	Said    map[string][]said `json:"said"`    // by test, in order
}

// record is where the tests run on the real lvm2, and what they record.
var record = os.Getenv("LXCBOOT_LVM_RECORD")

var recorded = recording{Said: map[string][]said{}}

func TestMain(m *testing.M) {
	path := record
	if path == "" {
		path = filepath.Join("testdata", "lvm2.json")
		b, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(b, &recorded)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if record != "" {
		out, err := exec.Command("lvm", "version").Output()
		if err == nil {
			recorded.Version = strings.TrimSpace(strings.SplitN(strings.SplitN(string(out), ":", 2)[1], "\n", 2)[0])
			var b []byte
			if b, err = json.MarshalIndent(recorded, "", " "); err == nil {
				err = os.WriteFile(path, append(b, '\n'), 0o644)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// testPool is a pool of 64 MiB in a group of its own: the real one, or that of the recording.
func testPool(t *testing.T) Pool {
	t.Helper()
	p := Pool{Group: "lxcboot-test", Name: "pool"}
	if record == "" {
		left := recorded.Said[t.Name()]
		p.Run = func(_ context.Context, argv ...string) (string, error) {
			t.Helper()
			if len(left) == 0 || !slices.Equal(left[0].Argv, argv) {
				t.Fatalf("%q is not what was recorded next: record it anew (docs/lvm.md)", argv)
			}
			now := left[0]
			left = left[1:]
			if now.Error != "" {
				return now.Stdout, errors.New(now.Error)
			}
			return now.Stdout, nil
		}
		t.Cleanup(func() {
			if len(left) > 0 && !t.Failed() {
				t.Errorf("%q was recorded, and not asked", left[0].Argv)
			}
		})
		return p
	}
	sh(t, `set -e; cd `+t.TempDir()+`; truncate -s 256M disk; dev=$(losetup --find --show disk); echo $dev >dev
		vgcreate -q lxcboot-test $dev; lvcreate -q --type thin-pool --size 64M --poolmetadatasize 4M --name pool lxcboot-test; lvcreate -q --size 4M --name thick lxcboot-test`)
	t.Cleanup(func() {
		sh(t, `set -e; dev=$(pvs --noheadings --options pv_name --select vg_name=lxcboot-test | tr -d ' '); vgremove -q --yes lxcboot-test; pvremove -q $dev; losetup -d $dev`)
	})
	p.Run = func(ctx context.Context, argv ...string) (string, error) {
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "LC_ALL=C")
		var out, complaint bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &complaint
		err := cmd.Run()
		now := said{Argv: argv, Stdout: out.String()}
		if err != nil {
			now.Error = fmt.Sprintf("%v: %s", err, strings.TrimSpace(complaint.String()))
			err = errors.New(now.Error)
		}
		recorded.Said[t.Name()] = append(recorded.Said[t.Name()], now)
		return now.Stdout, err
	}
	return p
}

// sh does what only the real lvm2 needs.
func sh(t *testing.T, script string) {
	t.Helper()
	if record == "" {
		return
	}
	if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestLife: a volume from nothing, its copy, both larger, and gone again; and what is not
// ours stays.
func TestLife(t *testing.T) {
	p, ctx := testPool(t), t.Context()
	u, err := p.Usage(ctx)
	ok(t, err)
	if u.Size != 64<<20 || u.Data != 0 || u.Metadata <= 0 {
		t.Errorf("a new pool is %+v", u)
	}
	a, err := p.Create(ctx, "lxcboot-a", 8<<20, "lxcboot-volume-a")
	ok(t, err)
	if a.Size != 8<<20 || !a.Active || a.Path != "/dev/lxcboot-test/lxcboot-a" || !slices.Contains(a.Tags, Ours) {
		t.Errorf("made %+v", a)
	}
	sh(t, `echo content | dd of=/dev/lxcboot-test/lxcboot-a conv=fsync status=none`)
	b, err := p.Snapshot(ctx, a, "lxcboot-b", "lxcboot-volume-b", "other")
	ok(t, err)
	if b.Active || b.Size != a.Size || b.UUID == a.UUID {
		t.Errorf("its copy is %+v", b)
	}
	ok(t, p.Extend(ctx, b, 1<<30)) // larger than the pool
	ok(t, p.Activate(ctx, b))
	sh(t, `[ "$(head -c7 /dev/lxcboot-test/lxcboot-b)" = content ]; echo new | dd of=/dev/lxcboot-test/lxcboot-b conv=fsync status=none; [ "$(head -c7 /dev/lxcboot-test/lxcboot-a)" = content ]`)
	ok(t, p.Tag(ctx, b, "more", "other"))
	b, err = p.Find(ctx, "lxcboot-volume-b")
	ok(t, err)
	if b.Size != 1<<30 || !b.Active || !slices.Contains(b.Tags, "more") || slices.Contains(b.Tags, "other") {
		t.Errorf("it became %+v", b)
	}
	if record != "" {
		out, err := exec.Command("dmsetup", "info", "--columns", "--noheadings", "--options", "uuid", b.Path).Output()
		ok(t, err)
		recorded.Device = strings.TrimSpace(string(out))
	}
	pool, found, err := Behind(ctx, recorded.Device, p.Run)
	ok(t, err)
	if pool.String() != p.String() || found.UUID != b.UUID || found.Path != b.Path || found.Size != b.Size {
		t.Errorf("behind %s there are %s and %+v", recorded.Device, pool, found)
	}
	ok(t, p.Deactivate(ctx, b))
	ok(t, p.Remove(ctx, a))
	ok(t, p.Remove(ctx, a))
	all, err := p.List(ctx)
	ok(t, err)
	if len(all) != 1 || all[0].UUID != b.UUID || all[0].Active {
		t.Errorf("left are %+v", all)
	}
	ok(t, p.Remove(ctx, b))
	if _, err := p.Find(ctx, "lxcboot-volume-b"); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("what was removed: %v", err)
	}
}

// TestNotOurs: what has another's tag is not listed, and not removed.
func TestNotOurs(t *testing.T) {
	p, ctx := testPool(t), t.Context()
	a, err := p.Create(ctx, "lxcboot-a", 8<<20)
	ok(t, err)
	ok(t, p.Tag(ctx, a, "", Ours))
	ok(t, p.Remove(ctx, a))
	ok(t, p.Tag(ctx, a, Ours, ""))
	all, err := p.List(ctx)
	ok(t, err)
	if len(all) != 1 {
		t.Errorf("ours are %+v", all)
	}
	again := a
	again.Name = "lxcboot-b"
	if _, err := p.Create(ctx, "lxcboot-a", 8<<20); err == nil {
		t.Error("two of one name")
	}
	ok(t, p.Remove(ctx, all[0]))
}

// TestFull: nothing is made in a pool that is nearly full.
func TestFull(t *testing.T) {
	p, ctx := testPool(t), t.Context()
	a, err := p.Create(ctx, "lxcboot-a", 62<<20)
	ok(t, err)
	sh(t, `head -c 60M /dev/urandom | dd of=/dev/lxcboot-test/lxcboot-a bs=1M iflag=fullblock conv=fsync status=none`)
	_, create := p.Create(ctx, "lxcboot-b", 8<<20)
	_, snapshot := p.Snapshot(ctx, a, "lxcboot-b")
	extend := p.Extend(ctx, a, 128<<20)
	for what, err := range map[string]error{"create": create, "snapshot": snapshot, "extend": extend} {
		if !errors.Is(err, ErrFull) {
			t.Errorf("%s: %v", what, err)
		}
	}
	ok(t, p.Remove(ctx, a))
}

// TestWrongPool: what is no thin pool is told from one.
func TestWrongPool(t *testing.T) {
	p, ctx := testPool(t), t.Context()
	for _, wrong := range []Pool{{"nothere", "pool", p.Run}, {p.Group, "nothere", p.Run}, {p.Group, "thick", p.Run}} {
		if _, err := wrong.Usage(ctx); !errors.Is(err, failure.ErrInvalid) || !strings.Contains(err.Error(), wrong.Name) && !strings.Contains(err.Error(), wrong.Group) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	for _, device := range []string{"", "mpath-3600", "LVM-short"} {
		if _, _, err := Behind(ctx, device, p.Run); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("behind %q: %v", device, err)
		}
	}
	sh(t, `lvchange -q --activate n lxcboot-test/pool`)
	if _, err := p.Usage(ctx); err == nil || !strings.Contains(err.Error(), "vgchange --activate y") {
		t.Errorf("a pool that is not active: %v", err)
	}
}
