package powercut

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Shell scripts that mount a disk until their input ends, and say "open" then.
var (
	//go:embed open.sh
	openScript string
	//go:embed record.sh
	recordScript string
)

// mounted is one of the scripts, at work.
type mounted struct {
	cmd   *exec.Cmd
	stdin io.Closer
}

func mount(cmd *exec.Cmd) (m mounted, err error) {
	m.cmd = cmd
	cmd.WaitDelay = 10 * time.Second
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err == nil {
		m.stdin, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return m, err
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "open\n" {
		return m, fmt.Errorf("a disk cannot be mounted: %w: %s", m.Close(), stderr.String())
	}
	return m, nil
}

// Close unmounts the disk, and gives back all that this takes.
func (m mounted) Close() error {
	m.stdin.Close()
	return m.cmd.Wait()
}

// Record mounts a disk, a file, so that others see it, and logs what happens to it until
// it is closed. dir is an empty directory for what that takes.
func Record(ctx context.Context, disk, log, dir, at string) (io.Closer, error) {
	return mount(exec.CommandContext(ctx, "sh", "-c", recordScript, "sh", disk, log, dir, at))
}

// Copy is a disk whose filesystem is mounted, its journal replayed, for no other process
// to see. The disk is not changed: what is written goes aside.
type Copy struct {
	mounted
	root string // what the shell takes for its root directory; empty: the host's
	env  []string
}

// OpenRoot mounts a whole host's disk, a file, whose programs are run then. dir is an empty
// directory for what that takes; libvirt, a directory with the socket of a libvirtd.
func OpenRoot(ctx context.Context, disk, dir, libvirt string) (*Copy, error) {
	c := &Copy{root: dir + "/root", env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}}
	if err := os.Mkdir(c.root, 0o700); err != nil {
		return nil, err
	}
	return c, c.open(ctx, disk, dir, c.root, libvirt)
}

// OpenAt mounts a disk, a file, at a directory of this host, which counts as started anew
// then. env is for what is run.
func OpenAt(ctx context.Context, disk, dir, at string, env []string) (*Copy, error) {
	c := &Copy{env: env}
	return c, c.open(ctx, disk, dir, at, "")
}

func (c *Copy) open(ctx context.Context, disk, dir, at, libvirt string) (err error) {
	c.mounted, err = mount(exec.CommandContext(ctx, "unshare", "--mount", "--propagation", "private",
		"sh", "-c", openScript, "sh", disk, dir, at, libvirt))
	return err
}

// Shell runs a script where the disk's filesystem is mounted.
func (c *Copy) Shell(script string) (string, error) {
	argv := []string{"--target", fmt.Sprint(c.cmd.Process.Pid), "--mount"}
	if c.root != "" {
		argv = append(argv, "chroot", c.root)
	}
	cmd := exec.Command("nsenter", append(argv, "sh", "-c", script)...)
	cmd.Env = c.env
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
