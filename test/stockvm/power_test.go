//go:build stockvm

package stockvm_test

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lxcboot/lxcboot/test/powercut"
)

// files is the directory of the machine's files.
func files() string {
	dir := os.Getenv("STOCKVM_DIR")
	if dir == "" {
		dir = "/var/cache/lxcboot-stockvm"
	}
	return filepath.Join(dir, "vm-"+os.Getenv("VM"))
}

// TestPowerCuts takes the power from the host amid a command: what was reported done is
// there then, and the containers that ran run again. Before that it looks, from outside, at
// what the disk could have been if the power had gone at other moments.
func TestPowerCuts(t *testing.T) {
	s := machine(t, time.Hour)
	const count, rounds = 40, 6
	s.run("sync")
	s.verb("kill")
	t.Setenv("RECORD", "1")
	s.verb("up")
	os.Unsetenv("RECORD")
	said := s.work(rounds)
	s.moments(count)
	s.verb("up")
	s.until(`state=$(systemctl show lxcboot.service -P ActiveState); echo "$state"; test "$state" != activating`)
	for _, wrong := range append(powercut.Check(s.try, said, true), powercut.Remove(s.try, "pc-")...) {
		t.Errorf("after the power went amid %q: %s", said[len(said)-1], wrong)
	}
}

// work works in the machine until the power goes amid the last of so many rounds, and
// gives what was said until then.
func (s stock) work(rounds int) (said []string) {
	s.Helper()
	cmd := exec.CommandContext(s.ctx, "./vm", "ssh", fmt.Sprintf("sh -s /root/said %d busybox pc", rounds))
	cmd.Stdin = strings.NewReader(powercut.Work)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	amid := fmt.Sprintf("-b%d ", rounds)
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "begin instance") && strings.Contains(lines.Text(), amid) {
			break
		}
	}
	if len(said) == 0 || !strings.Contains(said[len(said)-1], amid) {
		s.Fatalf("the work ends early: %v: %q", cmd.Wait(), said)
	}
	time.Sleep(rand.N(10 * time.Second)) // at whatever moment of what follows
	s.verb("kill")
	for lines.Scan() { // what was printed while this slept
		said = append(said, lines.Text())
	}
	cmd.Wait()
	return said
}

// moments looks at what the disk could have been at so many moments.
func (s stock) moments(count int) {
	s.Helper()
	log, err := powercut.ReadLog(filepath.Join(files(), "writes.log"))
	if err != nil {
		s.Fatal(err)
	}
	defer log.Close()
	own := s.TempDir()
	libvirtd := func(action string) {
		if out, err := exec.Command("../setup/private-libvirtd", action, own).CombinedOutput(); err != nil {
			s.Errorf("%v: %s", err, out)
		}
	}
	libvirtd("start")
	defer libvirtd("stop")
	result, err := log.Try(filepath.Join(files(), "before.raw"), count, func(said []string) ([]string, error) {
		return look(s.ctx, s.TempDir(), own, said)
	})
	if err != nil {
		s.Fatal(err)
	}
	for _, wrong := range result.Wrong {
		s.Error(wrong)
	}
	s.Logf("%s", result)
}

// look holds the disk as it is now against what had been said.
func look(ctx context.Context, dir, libvirt string, said []string) (wrong []string, err error) {
	c, err := powercut.OpenRoot(ctx, filepath.Join(files(), "before.raw"), dir, filepath.Join(libvirt, "sock"))
	if err != nil {
		return nil, err
	}
	wrong = append(powercut.Check(c.Shell, said, false), powercut.Remove(c.Shell, "")...)
	return wrong, c.Close()
}
