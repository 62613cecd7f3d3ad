package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// Several processes use one store: the test binary runs itself, with one of these
// roles and its arguments in the environment.
var roles = map[string]func(ctx context.Context, s *Store, args []string) error{
	"reserve":  roleReserve,
	"create":   roleCreate,
	"reimport": roleReimport,
	"read":     roleRead,
	"fill":     roleFill,
	"hold":     roleHold,
	"prune":    rolePrune,
	"scenario": roleScenario,
}

const (
	roleEnv = "LXCBOOT_TEST_ROLE"
	poolEnv = "LXCBOOT_TEST_POOL" // the thin pool of the store; empty: it has none
)

// lvmRun runs a command of lvm2.
func lvmRun(ctx context.Context, argv ...string) (string, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, complaint.String())
	}
	return string(out), err
}

func TestMain(m *testing.M) {
	role := strings.Split(os.Getenv(roleEnv), "\n")
	run, ok := roles[role[0]]
	if !ok {
		os.Exit(m.Run())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	s, err := Open(role[1], Options{Host: here, Pool: os.Getenv(poolEnv), Run: lvmRun})
	if err == nil {
		err = run(ctx, s, role[2:])
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, role[0]+":", err)
		os.Exit(1)
	}
}

// process starts a process in a role.
func process(t testing.TB, s *Store, env []string, role ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	args := append([]string{role[0], s.dir}, role[1:]...)
	cmd.Env = append(append(os.Environ(), roleEnv+"="+strings.Join(args, "\n")), env...)
	out := &bytes.Buffer{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, out
}

// together runs processes at the same time; all must end well.
func together(t *testing.T, s *Store, all ...[]string) {
	t.Helper()
	cmds, outs := make([]*exec.Cmd, len(all)), make([]*bytes.Buffer, len(all))
	for i, role := range all {
		cmds[i], outs[i] = process(t, s, nil, role...)
	}
	for i, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", all[i][0], err, outs[i])
		}
	}
	if left, err := s.Repair(testCtx(t)); err != nil || len(left) != 0 {
		t.Errorf("left over: %q, %v", left, err)
	}
}

const raceRounds = 25

// roleReserve takes a volume and lets it go, many times. A file that only the
// holder may make proves that nobody else holds it.
func roleReserve(ctx context.Context, s *Store, args []string) error {
	id, marker := args[0], args[1]
	me := uuid.NewString()
	for won := 0; won < raceRounds; {
		a, err := s.Reserve(ctx, id, volume.Instance{ID: me}, false)
		if errors.Is(err, volume.ErrInUse) {
			continue
		}
		if err != nil {
			return err
		}
		won++
		f, err := os.OpenFile(marker, os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return fmt.Errorf("two hold the volume: %w", err)
		}
		f.Close()
		if _, err := s.Connect(ctx, a); err != nil {
			return err
		}
		if err := s.Complete(ctx, a); err != nil {
			return err
		}
		if v, err := s.Volume(ctx, id); err != nil || v.Status != volume.StatusInUse || len(v.Attachments) != 1 || v.Attachments[0].InstanceID != me {
			return fmt.Errorf("held by us, and it is %+v, %w", v, err)
		}
		if err := os.Remove(marker); err != nil {
			return err
		}
		if err := s.Detach(ctx, a); err != nil {
			return err
		}
	}
	return nil
}

func TestReserveBetweenProcesses(t *testing.T) {
	s := newStore(t)
	v := blank(t, s)
	marker := filepath.Join(t.TempDir(), "held")
	role := []string{"reserve", v.ID, marker}
	together(t, s, role, role, role, role, role, role, role, role)
	if v, err := s.Volume(testCtx(t), v.ID); err != nil || v.Status != volume.StatusAvailable || len(v.Attachments) != 0 {
		t.Errorf("in the end the volume is %+v, %v", v, err)
	}
}

// lost is what may happen to somebody whose image is taken away.
func lost(err error) bool {
	return errors.Is(err, volume.ErrNotFound) || errors.Is(err, volume.ErrInUse) || errors.Is(err, volume.ErrConflict)
}

// roleCreate makes and deletes volumes of whatever image is there.
func roleCreate(ctx context.Context, s *Store, args []string) error {
	whole, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	for made := 0; made < raceRounds; {
		images, err := s.Images(ctx)
		if err == nil && len(images) != 0 {
			img := images[made%len(images)]
			var v volume.Volume
			if v, err = s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID}); err == nil {
				if _, err := s.WaitVolume(ctx, v.ID); err != nil {
					return fmt.Errorf("a volume whose creation began did not end well: %w", err)
				}
				got := make([]byte, len(whole))
				f, err := os.Open(s.dataOf(v.ID))
				if err != nil {
					return err
				}
				f.ReadAt(got, 0)
				f.Close()
				if !bytes.Equal(got, whole) {
					return fmt.Errorf("volume %s does not hold the image", v.ID)
				}
				if err := s.DeleteVolume(ctx, v.ID); err != nil {
					return err
				}
				made++
			}
		}
		if err != nil && !lost(err) {
			return err
		}
	}
	return nil
}

// roleReimport imports the file and deletes the image again, many times, and
// leaves one in the end for those who still need it.
func roleReimport(ctx context.Context, s *Store, args []string) error {
	for range raceRounds {
		img, err := s.ImportImage(ctx, volume.ImportImage{Name: "img", Path: args[0]})
		if err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
		for {
			err := s.DeleteImage(ctx, img.ID)
			if err == nil {
				break
			}
			if !errors.Is(err, volume.ErrInUse) {
				return err
			}
		}
	}
	_, err := s.ImportImage(ctx, volume.ImportImage{Name: "img", Path: args[0]})
	return err
}

// roleRead looks at everything all the time, and must never see a half of it.
func roleRead(ctx context.Context, s *Store, args []string) error {
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		images, err := s.Images(ctx)
		if err != nil {
			return err
		}
		for _, i := range images {
			if i.Status != volume.ImageSaving && (i.Status != volume.ImageActive || i.Size == 0) {
				return fmt.Errorf("half an image: %+v", i)
			}
		}
		volumes, err := s.Volumes(ctx)
		if err != nil {
			return err
		}
		for _, v := range volumes {
			if v.Status != volume.StatusDownloading && v.Status != volume.StatusAvailable {
				return fmt.Errorf("half a volume: %+v", v)
			}
		}
	}
	return nil
}

func TestDeleteImageWhileVolumesAreMade(t *testing.T) {
	s := newStore(t)
	path := fullFile(t, 4<<20)
	together(t, s,
		[]string{"create", path}, []string{"create", path}, []string{"create", path},
		[]string{"reimport", path}, []string{"reimport", path}, []string{"read"})
	if left, err := s.Volumes(testCtx(t)); err != nil || len(left) != 0 {
		t.Errorf("volumes left: %+v, %v", left, err)
	}
	// Two imports of one file are two images.
	if images, err := s.Images(testCtx(t)); err != nil || len(images) != 2 {
		t.Errorf("images left: %+v, %v", images, err)
	}
}

// roleFill makes a volume of an image, and says its id before it is done.
func roleFill(ctx context.Context, s *Store, args []string) error {
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: args[0], Metadata: map[string]string{volume.MetaInstance: "me"}})
	if err != nil {
		return err
	}
	fmt.Println(v.ID)
	_, err = s.WaitVolume(ctx, v.ID)
	return err
}

// A process that is killed while it fills a volume leaves one that shows as an
// error, says why, can be found by its instance, and be deleted or repaired away;
// and no qemu-img goes on without it.
func TestKilledWhileFilling(t *testing.T) {
	s, ctx := newStore(t), testCtx(t)
	dir := t.TempDir()
	raw := fullFile(t, 512<<20)
	qemu(t, dir, "convert", "-f", "raw", "-O", "qcow2", raw, filepath.Join(dir, "i.qcow2"))
	for what, path := range map[string]string{"raw": raw, "qcow2": filepath.Join(dir, "i.qcow2")} {
		t.Run(what, func(t *testing.T) {
			img := importRaw(t, s, path)
			for _, mend := range []bool{false, true} {
				id := killedFill(t, s, img.ID)
				got, err := s.Volume(ctx, id)
				if err != nil || got.Status != volume.StatusError {
					t.Fatalf("it shows as %+v, %v", got, err)
				}
				_, err = s.WaitVolume(ctx, id)
				var state *volume.StateError
				if !errors.As(err, &state) || !strings.Contains(state.Detail, "interrupted") {
					t.Errorf("waiting for it: %v", err)
				}
				if of, err := s.VolumesOf(ctx, "me"); err != nil || len(of) != 1 || of[0].ID != id {
					t.Errorf("volumes of the instance: %+v, %v", of, err)
				}
				if mend {
					if did, err := s.Repair(ctx); err != nil || len(did) != map[string]int{"raw": 1, "qcow2": 2}[what] || !strings.Contains(did[len(did)-1], id) {
						t.Errorf("repair: %q, %v", did, err)
					}
				} else if err := s.DeleteVolume(ctx, id); err != nil {
					t.Error(err)
				} else if what == "qcow2" {
					if did, err := s.Repair(ctx); err != nil || len(did) != 1 || !strings.Contains(did[0], img.ID) {
						t.Errorf("repair of the half raw form: %q, %v", did, err)
					}
				}
				if left, err := s.Repair(ctx); err != nil || len(left) != 0 {
					t.Errorf("left over after that: %q, %v", left, err)
				}
				if left, err := os.ReadDir(s.volumes.dir); err != nil || len(left) != 0 {
					t.Errorf("left: %v, %v", left, err)
				}
			}
			if err := s.DeleteImage(ctx, img.ID); err != nil {
				t.Errorf("the image is held by nobody: %v", err)
			}
		})
	}
}

// killedFill starts a process that fills a volume, and kills it on the way.
func killedFill(t *testing.T, s *Store, image string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+strings.Join([]string{"fill", s.dir, image}, "\n"))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	id := strings.TrimSpace(line)
	working := func() bool {
		var raw unix.Stat_t
		return allocated(t, s.dataOf(id)) != 0 || unix.Stat(filepath.Join(s.images.path(image), rawNewName), &raw) == nil && raw.Blocks != 0
	}
	for end := time.Now().Add(20 * time.Second); !working(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not begin")
		}
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	cmd.Wait()
	for end := time.Now().Add(5 * time.Second); slices.ContainsFunc(commandLines(t), func(c string) bool {
		return strings.Contains(c, id) || strings.Contains(c, rawNewName) && strings.Contains(c, image)
	}); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("qemu-img outlives the process that it works for")
		}
	}
	return id
}

// rolePrune removes the raw forms of images all the time.
func rolePrune(ctx context.Context, s *Store, args []string) error {
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if _, err := s.PruneImages(ctx); err != nil {
			return err
		}
	}
	return nil
}

// commandLines reads the command line of every process.
func commandLines(t *testing.T) (all []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		b, _ := os.ReadFile(path)
		all = append(all, string(b))
	}
	return all
}

// roleScenario does everything that changes the store once, and says after each
// step what it was told to be done.
func roleScenario(ctx context.Context, s *Store, args []string) error {
	img, err := s.ImportImage(ctx, volume.ImportImage{Name: "img", Path: args[0]})
	if err != nil {
		return err
	}
	fmt.Println("image", img.ID)
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1, ImageID: img.ID})
	if err != nil {
		return err
	}
	fmt.Println("known", v.ID)
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		return err
	}
	fmt.Println("volume", v.ID)
	snap, err := s.CreateSnapshot(ctx, volume.CreateSnapshot{Name: "snap", VolumeID: v.ID})
	if err != nil {
		return err
	}
	fmt.Println("snapshot", snap.ID)
	if _, err := s.ExtendVolume(ctx, v.ID, 2, ""); err != nil {
		return err
	}
	fmt.Println("extended", v.ID)
	a, err := s.Reserve(ctx, v.ID, volume.Instance{ID: "web1"}, false)
	if err != nil {
		return err
	}
	fmt.Println("reserved", v.ID)
	if _, err := s.Connect(ctx, a); err != nil {
		return err
	}
	fmt.Println("connected", v.ID)
	if err := s.Complete(ctx, a); err != nil {
		return err
	}
	fmt.Println("completed", v.ID)
	if err := s.Detach(ctx, a); err != nil {
		return err
	}
	fmt.Println("detached", v.ID)
	if err := s.DeleteVolume(ctx, v.ID); err != nil {
		return err
	}
	fmt.Println("novolume", v.ID)
	if err := s.DeleteSnapshot(ctx, snap.ID); err != nil {
		return err
	}
	fmt.Println("nosnapshot", snap.ID)
	if _, err := s.PruneImages(ctx); err != nil {
		return err
	}
	fmt.Println("pruned", img.ID)
	if err := s.DeleteImage(ctx, img.ID); err != nil {
		return err
	}
	fmt.Println("noimage", img.ID)
	return nil
}

// qcow2File makes an image that is not raw, with a little content.
func qcow2File(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	qemu(t, "/", "convert", "-f", "raw", "-O", "qcow2", rawFile(t, 1<<20), path)
	return path
}

// TestScenario keeps the role honest that the fault tests lean on.
func TestScenario(t *testing.T) {
	s := newStore(t)
	cmd, out := process(t, s, nil, "scenario", qcow2File(t))
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if n := strings.Count(out.String(), "\n"); n != 13 {
		t.Errorf("it did %d steps:\n%s", n, out)
	}
}
