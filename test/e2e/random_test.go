//go:build e2e

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// many is how often something is done that is to happen at random: long times in a whole
// torture run, and in a shorter one as large a part.
func many(quick, long int) int {
	if torture > 0 {
		return max(quick, long*min(torture, 1000)/1000)
	}
	return quick
}

// TestSignalsAtRandom has commands of all kinds hit by a signal at a moment that nobody
// chose, one after the other in one state directory, so that each finds what the one
// before it left. Then repair and delete: nothing is left. E2E_SEED repeats a run, as far
// as moments can be repeated.
func TestSignalsAtRandom(t *testing.T) {
	t.Parallel()
	count := newTally(t, "commands hit by a signal at a random moment")
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("E2E_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("E2E_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, "random", count)
	spec := []string{"--flavor", "m1.tiny", "--nic", "none", "--block-device", rootSpec, "NAME"}
	commands := [][]string{
		bootArgs, smallArgs, smallArgs, append([]string{"run", "--rm"}, spec...), append([]string{"run", "--stop-timeout", "1s"}, spec...),
		{"start", "NAME"}, {"start", "NAME"}, {"stop", "--stop-timeout", "2s", "NAME"}, {"stop", "--force", "NAME"}, {"reboot", "--hard", "NAME"},
		{"volume", "attach", "NAME", "data"}, {"volume", "attach", "NAME", "data"}, {"volume", "detach", "NAME", "data"},
		{"set", "NAME", "--property", "a=b"}, {"rename", "NAME", "NAME-b"}, {"rename", "NAME-b", "NAME"}, {"delete", "NAME"}, {"delete", "NAME-b"},
		{"repair"}, {"autostart"}, {"list", "--all"}, {"exec", "NAME", "--", "true"},
		{"image", "import", "QCOW2", "--name", "imported"}, {"image", "delete", "imported"},
		{"volume", "create", "--image", "busybox", "--size", "1", "made"}, {"volume", "delete", "made"}, {"snapshot", "create", "--volume", "data", "snap"}, {"snapshot", "delete", "snap"},
	}
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGKILL}
	began := time.Now()
	w.must("list")
	unit := float64(max(8*time.Millisecond, time.Since(began)/4))
	n, ends := many(60, 300), map[string]int{}
	for i := range n {
		args := commands[random.IntN(len(commands))]
		sig := signals[random.IntN(len(signals))]
		// As long as a command may take here, each length of time as likely as twice of it.
		after := time.Duration(unit * pow2(random.Float64()*7.5))
		count.fault()
		code, out, begun := w.hit(args, sig, after)
		switch {
		case code == -int(sig):
			ends["killed"]++
		case code == 128+int(sig):
			ends["interrupted"]++
		case code == 0:
			ends["whole"]++
		default:
			ends["refused or failed"]++
		}
		// There is to be something for most of those that follow.
		switch {
		case code == 3:
			w.run(smallArgs...)
		case code == 4 && strings.Contains(out, "did not finish"):
			if code, out := w.run("delete", "NAME"); code != 0 && code != 3 {
				t.Errorf("delete after command %d: exit code %d\n%s", i, code, out)
			}
			w.run(smallArgs...)
		}
		if code < 0 && syscall.Signal(-code) == syscall.SIGKILL && sig == syscall.SIGKILL || slices.Contains([]int{0, 1, 3, 4, 7, 125, 128 + int(sig), 137}, code) {
			continue
		}
		// It came before anybody listened for it, which is before anything is done.
		if code == -int(sig) && !begun {
			continue
		}
		t.Errorf("command %d, %v, hit by %v after %v: exit code %d\n%s", i, args, sig, after, code, out)
	}
	t.Logf("of %d commands: %v", n, ends)
	if code, out := w.run("repair"); code != 0 && !(code == 4 && strings.Contains(out, "its container runs")) {
		t.Errorf("repair: exit code %d\n%s", code, out)
	}
	for _, args := range [][]string{{"delete", "NAME"}, {"delete", "NAME-b"}} {
		if code, out := w.run(args...); code != 0 && code != 3 {
			t.Errorf("%v: exit code %d\n%s", args, code, out)
		}
	}
	// A name of the store's may be that of several by now.
	for kind, name := range map[string]string{"snapshot": "snap", "volume": "made", "image": "imported"} {
		for line := range strings.Lines(w.must(kind, "list", "-f", "value", "-c", "ID", "-c", "Name")) {
			if id, of, _ := strings.Cut(strings.TrimSpace(line), " "); of == name {
				w.must(kind, "delete", id)
			}
		}
	}
	if code, out := w.run("repair"); code != 0 {
		t.Errorf("repair at the end: exit code %d\n%s", code, out)
	}
	w.asBefore()
}

// pow2 is 2 to the power of x, coarsely.
func pow2(x float64) float64 {
	whole := int(x)
	return float64(int(1)<<whole) * (1 + x - float64(whole))
}

// hit runs lxcboot, and sends it a signal after a while.
func (w *world) hit(args []string, sig syscall.Signal, after time.Duration) (code int, output string, begun bool) {
	w.t.Helper()
	log := filepath.Join(w.work, "hit-points")
	if err := os.Remove(log); err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	cmd := exec.Command("lxcboot-faults", w.words(args)...)
	cmd.Env = append(w.env(), "LXCBOOT_FAULT_LOG="+log)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	signal := time.AfterFunc(after, func() { cmd.Process.Signal(sig) })
	limit := time.AfterFunc(commandLimit, func() {
		w.t.Errorf("%v hangs after %v", args, sig)
		cmd.Process.Kill()
	})
	err := cmd.Wait()
	signal.Stop()
	limit.Stop()
	code, err = exitCode(err)
	if err != nil {
		w.t.Fatalf("%v: %v", args, err)
	}
	_, missing := os.Stat(log)
	return code, out.String(), missing == nil
}

// TestBootsBesideRepairs boots, stops, starts, attaches, detaches and deletes in four
// processes while three others repair without end: nothing of what is healthy fails, or is
// undone. How often a record had changed by the time that its lock was had is counted:
// what is decided from the record as it was before would be wrong then.
func TestBootsBesideRepairs(t *testing.T) {
	t.Parallel()
	count := newTally(t, "boots beside repairs")
	w := newWorld(t, "beside", count)
	const boots, repairs = 4, 3
	for i := range boots {
		w.must("volume", "create", "--size", "1", fmt.Sprint("data-", i))
	}
	log := filepath.Join(w.work, "log")
	faulty := func(args ...string) (int, string) {
		return w.command("lxcboot-faults", []string{"LXCBOOT_FAULT_LOG=" + log}, args...)
	}
	done := make(chan struct{})
	var beside, working sync.WaitGroup
	var repaired atomic.Int64
	for range repairs {
		beside.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if code, out := faulty("repair"); code != 0 || strings.Contains(out, "instance ") {
					t.Errorf("repair beside healthy work: exit code %d\n%s", code, out)
					return
				}
				repaired.Add(1)
			}
		})
	}
	// However slow the machine is, what the test is for has to come to pass.
	n, enough := many(3, 200/boots), time.Now().Add(5*time.Minute)
	met := func() int {
		data, _ := os.ReadFile(log)
		return strings.Count("\n"+string(data), "\ndoor/changed meanwhile#")
	}
	for i := range boots {
		working.Go(func() {
			name, data := fmt.Sprint("NAME-", i), fmt.Sprint("data-", i)
			ways := [][][]string{
				{},
				{{"stop", "--force", name}, {"start", name}},
				{{"volume", "attach", name, data}, {"volume", "detach", name, data}},
			}
			for round := 0; round < n || met() == 0 && time.Now().Before(enough); round++ {
				steps := [][]string{append(append([]string{}, smallArgs[:len(smallArgs)-1]...), name)}
				steps = append(steps, ways[(round+i)%len(ways)]...)
				steps = append(steps, []string{"exec", name, "--", "true"}, []string{"delete", name})
				count.fault()
				for _, args := range steps {
					if code, out := faulty(args...); code != 0 {
						t.Errorf("%v beside repairs: exit code %d\n%s", args, code, out)
						w.run("delete", name)
						return
					}
				}
			}
		})
	}
	working.Wait()
	close(done)
	beside.Wait()
	changed := met()
	t.Logf("%d repairs; a record had changed %d times when its lock was had", repaired.Load(), changed)
	if changed == 0 {
		t.Error("no record had ever changed: this has not tested what it is for")
	}
	for i := range boots {
		w.must("volume", "delete", fmt.Sprint("data-", i))
	}
	w.must("repair")
	w.asBefore()
}

// TestShortRuns runs containers that end at once: what each said is there, to the last
// word, and how it ended.
func TestShortRuns(t *testing.T) {
	t.Parallel()
	count := newTally(t, "runs of containers that end at once")
	w := newWorld(t, "short", count)
	script := filepath.Join(w.work, "speak")
	if err := os.WriteFile(script, []byte("#!/bin/sh\necho first\n[ $1 = 0 ] || seq 300\necho last $1\nexit $1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(w.work, "speak.raw")
	if out, err := exec.Command("busybox-image", image, "--add", script+"=/etc/speak").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	w.must("image", "import", image, "--name", "speak")
	w.before = w.files()
	var numbers strings.Builder
	for i := range 300 {
		fmt.Fprintln(&numbers, i+1)
	}
	run := func(name string, status int) {
		count.fault()
		code, out := w.run("run", "-q", "--rm", "--flavor", "m1.tiny", "--nic", "none", "--init", "/etc/speak", "--init-arg", fmt.Sprint(status), "--image", "speak", name)
		want := fmt.Sprintf("first\n%slast %d\n", &numbers, status)
		if status == 0 {
			want = "first\nlast 0\n"
		}
		out = strings.ReplaceAll(out, "\r", "")
		if code != status || out != want {
			t.Errorf("a container that returns %d: exit code %d, and of %d bytes there are %d:\n%s", status, code, len(want), len(out), out)
		}
	}
	for i := range many(10, 130) {
		run("NAME", i%2*3)
	}
	var lanes sync.WaitGroup
	for lane := range 4 {
		lanes.Go(func() {
			for i := range many(3, 20) {
				run(fmt.Sprint("NAME-", lane), (i+lane)%2*3)
			}
		})
	}
	lanes.Wait()
	w.asBefore()
}
