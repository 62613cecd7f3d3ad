package proc

import (
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"
)

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p, err := Of(cmd.Process.Pid)
	if err != nil || !p.Alive() {
		t.Fatalf("%+v: %v", p, err)
	}
	if age := p.Age(); age < 0 || age > time.Minute {
		t.Errorf("it is %s old", age)
	}
	if age := (Process{Start: p.Start - 60*ticks}).Age(); age < time.Minute || age > 2*time.Minute {
		t.Errorf("one that was started a minute before it is %s old", age)
	}
	if !slices.Contains(All(), p.PID) || !slices.Contains(All(), os.Getpid()) {
		t.Error("it is not among all")
	}
	// The same number at another time is another process.
	if other := (Process{p.PID, p.Start + 1}); other.Alive() {
		t.Error("a process with another start time is taken for it")
	}
	f, err := p.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if p.Alive() || Alive(f) {
		t.Error("it is alive after its end")
	}
	for _, gone := range []Process{p, {}, {PID: -1}} {
		if _, err := gone.Open(); err != os.ErrProcessDone {
			t.Errorf("%+v: %v", gone, err)
		}
	}
}
