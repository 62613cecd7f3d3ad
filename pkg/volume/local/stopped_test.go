package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/volume"
)

// roleHold takes a lock, says so, and never lets go of it: of a volume's record, of
// the shelf of the volumes, or of the content of a volume that it does not fill.
func roleHold(ctx context.Context, s *Store, args []string) error {
	var err error
	switch what, id := args[0], args[1]; what {
	case "record":
		_, err = s.volumes.lock(ctx, id)
	case "shelf":
		_, err = s.volumes.lockShelf(ctx, unix.LOCK_EX)
	case "convert":
		_, err = lockFile(ctx, filepath.Join(s.images.path(id), rawNewName), os.O_RDWR|os.O_CREATE, unix.LOCK_EX, 0)
	case "making":
		_, err = s.volumes.create(ctx, record[volume.Volume]{Object: volume.Volume{ID: id, Status: volume.StatusCreating, Size: 1}})
	}
	if err != nil {
		return err
	}
	fmt.Println("held")
	<-ctx.Done()
	return ctx.Err()
}

// TestStoppedHolder has a process stand still with a lock of the store. Whoever wants
// it as well gives up when their time is over, and says for whom they waited.
func TestStoppedHolder(t *testing.T) {
	const wait = 300 * time.Millisecond
	for what, calls := range map[string]map[string]func(ctx context.Context, s *Store, id, attachment string) error{
		"record": {
			"Reserve": func(ctx context.Context, s *Store, id, _ string) error {
				_, err := s.Reserve(ctx, id, volume.Instance{ID: "web2"}, false)
				return err
			},
			"Connect":  func(ctx context.Context, s *Store, _, a string) error { _, err := s.Connect(ctx, a); return err },
			"Complete": func(ctx context.Context, s *Store, _, a string) error { return s.Complete(ctx, a) },
			"Detach":   func(ctx context.Context, s *Store, _, a string) error { return s.Detach(ctx, a) },
			"UpdateVolume": func(ctx context.Context, s *Store, id, _ string) error {
				_, err := s.UpdateVolume(ctx, id, volume.UpdateVolume{})
				return err
			},
			"ExtendVolume": func(ctx context.Context, s *Store, id, _ string) error {
				_, err := s.ExtendVolume(ctx, id, 2, "")
				return err
			},
			"DeleteVolume": func(ctx context.Context, s *Store, id, _ string) error { return s.DeleteVolume(ctx, id) },
			"Repair":       func(ctx context.Context, s *Store, _, _ string) error { _, err := s.Repair(ctx); return err },
		},
		"shelf": {
			"CreateVolume": func(ctx context.Context, s *Store, _, _ string) error {
				_, err := s.CreateVolume(ctx, volume.CreateVolume{Size: 1})
				return err
			},
			"Repair": func(ctx context.Context, s *Store, _, _ string) error { _, err := s.Repair(ctx); return err },
		},
		"making": {
			"WaitVolume": func(ctx context.Context, s *Store, id, _ string) error { _, err := s.WaitVolume(ctx, id); return err },
		},
	} {
		t.Run(what, func(t *testing.T) {
			s, ctx := openAs(t, t.TempDir(), Options{Host: here, Wait: wait}), testCtx(t)
			id, attachment := uuid.NewString(), ""
			if what != "making" {
				id = blank(t, s).ID
				var err error
				if attachment, err = s.Reserve(ctx, id, volume.Instance{ID: "web1"}, false); err != nil {
					t.Fatal(err)
				}
			}
			pid := holding(t, s, what, id)
			holder := fmt.Sprintf("process %d (", pid)
			for name, call := range calls {
				limit, cancel := context.WithTimeout(ctx, 20*time.Second)
				begun := time.Now()
				err := call(limit, s, id, attachment)
				cancel()
				if !errors.Is(err, volume.ErrConflict) || time.Since(begun) < wait {
					t.Errorf("%s after %v: %v", name, time.Since(begun), err)
					continue
				}
				for _, says := range []string{holder, "stopped)", wait.String()} {
					if !strings.Contains(err.Error(), says) {
						t.Errorf("%s does not say %q: %v", name, says, err)
					}
				}
				// A caller who has less patience is told as well.
				limit, cancel = context.WithTimeout(ctx, wait/10)
				err = call(limit, s, id, attachment)
				cancel()
				if !errors.Is(err, context.DeadlineExceeded) || what != "making" && !strings.Contains(err.Error(), holder) {
					t.Errorf("%s with a limit of its own: %v", name, err)
				}
			}
		})
	}
}

// holding starts a process in the role of a holder and stops it when it holds.
func holding(t *testing.T, s *Store, what, id string) (pid int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), roleEnv+"="+strings.Join([]string{"hold", s.dir, what, id}, "\n"))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the holder says %q, %v", line, err)
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); !strings.Contains(processName(cmd.Process.Pid), "stopped"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not stop", processName(cmd.Process.Pid))
		}
	}
	return cmd.Process.Pid
}
