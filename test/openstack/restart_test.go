//go:build openstack

package openstack_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/volume/openstack"
)

// TestRestart stops Cinder's API and starts it again while it is needed. It is the
// last test: the others want it running.
func TestRestart(t *testing.T) {
	hasty := open(t, func(o *openstack.Options) { o.Patience = 2 * time.Second })
	s := open(t, func(o *openstack.Options) { o.Patience = 2 * time.Minute })
	ctx := t.Context()
	t.Cleanup(func() { startLab(t) })
	stopCinderAPI(t)
	start := time.Now()
	_, err := hasty.Volumes(ctx)
	if !errors.Is(err, volume.ErrUnreachable) || !strings.Contains(err.Error(), "connection refused") || time.Since(start) > 15*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
	done := make(chan struct{})
	go func() { defer close(done); startLab(t) }()
	v, err := s.CreateVolume(ctx, volume.CreateVolume{Name: name(), Size: 1, Type: "rbd"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.DeleteVolume(ctx, v.ID); err != nil {
			t.Error(err)
		}
	}()
	<-done
	if _, err := s.WaitVolume(ctx, v.ID); err != nil {
		t.Fatal(err)
	}
	id, err := s.Reserve(ctx, v.ID, volume.Instance{ID: uuid.NewString()}, false)
	if err != nil {
		t.Fatal(err)
	}
	stopCinderAPI(t)
	done = make(chan struct{})
	go func() { defer close(done); startLab(t) }()
	if err := s.Detach(ctx, id); err != nil {
		t.Error(err)
	}
	<-done
	all, err := s.Volumes(ctx)
	n := 0
	for _, other := range all {
		if other.Name == v.Name {
			n++
		}
	}
	if err != nil || n != 1 {
		t.Errorf("%d volumes were made, %v", n, err)
	}
}

func startLab(t *testing.T) {
	if out, err := exec.Command("lab/openstack-lab", "up").CombinedOutput(); err != nil {
		t.Errorf("the lab does not come up: %v\n%s", err, out)
	}
}

// stopCinderAPI kills the process that the lab noted, and those it made.
func stopCinderAPI(t *testing.T) {
	t.Helper()
	note, err := os.ReadFile(filepath.Join(labDir(), "run/cinder-api.pid"))
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.Fields(string(note))[0])
	if err != nil || pid < 2 {
		t.Fatalf("%q, %v", note, err)
	}
	// The lab starts it as the leader of a session and so of a process group.
	if err := syscall.Kill(-pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 1200 {
		if syscall.Kill(-pid, 0) != nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("cinder-api does not end")
}
