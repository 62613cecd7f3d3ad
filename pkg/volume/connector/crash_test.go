//go:build faults

package connector

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestMain makes the test binary act as the command that is killed: it connects
// and disconnects what the parent planned.
func TestMain(m *testing.M) {
	plan := os.Getenv("CONNECTOR_CRASH")
	if plan == "" {
		os.Exit(m.Run())
	}
	if err := crashing(plan); err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// crashPlan is what the parent tells the child.
type crashPlan struct {
	StateDir string
	Req      Request
	Dev      Device
}

func crashing(plan string) error {
	var p crashPlan
	if err := json.Unmarshal([]byte(plan), &p); err != nil {
		return err
	}
	h := New(Options{StateDir: p.StateDir})
	if p.Req.Connection.Driver == "nfs" {
		h.o.Run = (&fakeNFS{}).run
	}
	dev, err := h.Connect(context.Background(), p.Req, p.Dev)
	if err == nil {
		err = h.Disconnect(context.Background(), dev)
	}
	return err
}

// TestCrash kills the command at each point between two effects, and then takes
// away all there is from nothing but the planned device, as delete does.
func TestCrash(t *testing.T) {
	nbd, _ := nbdVolume(t, MiB)
	dir := t.TempDir()
	sparse(t, dir+"/raw", MiB)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", dir+"/qcow2", "1M")
	for name, req := range map[string]Request{
		"nbd":       request("x1", "nbd", nbd),
		"nfs raw":   request("x1", "nfs", nfsData(dir, "raw", "raw")),
		"nfs qcow2": request("x1", "nfs", nfsData(dir, "qcow2", "qcow2")),
	} {
		points := reached(t, req)
		if len(points) < 4 {
			t.Fatalf("%s reaches no more than %v", name, points)
		}
		for _, point := range points {
			t.Run(name+" "+point, func(t *testing.T) {
				h := newHost(t, Auto)
				dev := crash(t, h, req, "LXCBOOT_FAULT="+point+"=kill", true)
				for range 2 {
					if err := h.Disconnect(t.Context(), dev); err != nil {
						t.Error(err)
					}
				}
			})
			t.Run(name+" "+point+" connect again", func(t *testing.T) {
				h := newHost(t, Auto)
				h.o.Run = (&fakeNFS{}).run
				dev := crash(t, h, req, "LXCBOOT_FAULT="+point+"=kill", true)
				dev, err := h.Connect(t.Context(), req, dev)
				if err != nil {
					t.Fatal(err)
				}
				if fi, err := os.Stat(dev.Path); err != nil || fi.Size() == 0 {
					t.Errorf("%v, %v", fi, err)
				}
				if err := h.Disconnect(t.Context(), dev); err != nil {
					t.Error(err)
				}
			})
		}
	}
}

// reached lists the points that connecting and disconnecting pass.
func reached(t *testing.T, req Request) []string {
	t.Helper()
	log := t.TempDir() + "/log"
	crash(t, newHost(t, Auto), req, "LXCBOOT_FAULT_LOG="+log, false)
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(b))
}

// crash runs the child with a fault, and returns the device as it was planned.
func crash(t *testing.T, h *Host, req Request, env string, dies bool) Device {
	t.Helper()
	dev, err := h.Prepare(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	plan, err := json.Marshal(crashPlan{h.o.StateDir, req, dev})
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), "CONNECTOR_CRASH="+string(plan), env)
	out, err := cmd.CombinedOutput()
	if died := err != nil && err.Error() == "signal: killed"; died != dies || !dies && err != nil {
		t.Fatalf("the child ended with %v\n%s", err, out)
	}
	return dev
}
