package rootfs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lxcboot/lxcboot/pkg/loop"
	"github.com/lxcboot/lxcboot/pkg/tty"
)

// Limits of the external tools.
const (
	formatLimit = 5 * time.Minute
	checkLimit  = 15 * time.Minute
	toolOutput  = 4 << 10 // bytes of its output that are kept
)

// ErrCheck is wrapped when a filesystem does not pass Check.
var ErrCheck = errors.New("the filesystem has errors")

// formats are the filesystems that Format makes, and the arguments that keep each
// of them from asking.
var formats = map[string][]string{
	"ext2": {"-q", "-F"}, "ext3": {"-q", "-F"}, "ext4": {"-q", "-F"}, "xfs": {"-q", "-f"}, "btrfs": {"-q", "-f"},
}

// Format makes a filesystem on a device, with the host's own mkfs.
func Format(ctx context.Context, device, fstype string) error {
	args, known := formats[fstype]
	if !known {
		return fmt.Errorf("cannot make a filesystem of type %q: use one of ext2, ext3, ext4, xfs, btrfs", fstype)
	}
	ctx, cancel := context.WithTimeout(ctx, formatLimit)
	defer cancel()
	for try := 1; ; try++ {
		out, _, err := tool(ctx, "mkfs."+fstype, append(slices.Clone(args), device)...)
		switch {
		case err == nil:
			return nil
		case try == formatTries || !strings.Contains(out, mkfsBtrfsRace):
			return fmt.Errorf("cannot make a filesystem of type %s on %s: %w%s", fstype, device, err, out)
		}
	}
}

// mkfs.btrfs looks at every mounted loop device of the host, and fails with this message
// when any of them goes away meanwhile.
const (
	mkfsBtrfsRace = "cannot check mount status"
	formatTries   = 5
)

// checks are the read-only checks of each type, and what mends it. unsquashfs has none:
// it walks the directories.
var checks = map[string]struct {
	pkg  string // Debian's
	args []string
	mend string
}{
	"ext2":     {"e2fsprogs", []string{"e2fsck", "-f", "-n"}, "e2fsck -f"},
	"ext3":     {"e2fsprogs", []string{"e2fsck", "-f", "-n"}, "e2fsck -f"},
	"ext4":     {"e2fsprogs", []string{"e2fsck", "-f", "-n"}, "e2fsck -f"},
	"xfs":      {"xfsprogs", []string{"xfs_repair", "-n"}, "xfs_repair"},
	"btrfs":    {"btrfs-progs", []string{"btrfs", "check", "--readonly"}, "btrfs check --repair"},
	"squashfs": {"squashfs-tools", []string{"unsquashfs", "-q", "-n", "-ls"}, ""},
	"erofs":    {"erofs-utils", []string{"fsck.erofs"}, ""},
}

// mend says how to mend what a check found wanting.
func (fsys Filesystem) mend(device string) string {
	with := checks[fsys.Type].mend
	switch {
	case with == "":
		return "write the image anew"
	case fsys.Partition != 0:
		device = fmt.Sprintf("the device that 'losetup --find --show --offset %d --sizelimit %d %s' makes", fsys.Offset, fsys.Size, device)
	}
	text := fmt.Sprintf("mend it with '%s' on %s", with, device)
	if fsys.NeedsRecovery || fsys.Type == "xfs" {
		text = "if it only was not unmounted cleanly, boot it once without --fsck, which replays its journal; else " + text
	}
	return text
}

// Check runs the type's own checker over a filesystem that is not mounted, without
// changing anything: it sees a read-only device. The error wraps ErrCheck when the
// checker finds the filesystem wanting, and says how to mend it. One that was not
// unmounted cleanly may be found so too, for its journal is not replayed.
func Check(ctx context.Context, device string, fsys Filesystem) error {
	check, known := checks[fsys.Type]
	if !known {
		return fmt.Errorf("cannot check a filesystem of type %q; %s", fsys.Type, allowed)
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	backing, _, err := openDevice(device, true)
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", device, err)
	}
	defer backing.Close()
	source, held, err := blockDevice(ctx, backing, fsys, loop.Options{ReadOnly: true})
	if err != nil {
		return fmt.Errorf("cannot check %s: %w", device, err)
	}
	if held != nil {
		defer held.Close()
	}
	out, code, err := tool(ctx, check.args[0], append(check.args[1:len(check.args):len(check.args)], source)...)
	if err == nil && check.args[0] == "fsck.erofs" && strings.Contains(out, "<E>") {
		err = errors.New("it reports errors") // although its exit code is 0
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("cannot check %s: %w; install %s", device, err, check.pkg)
	case ctx.Err() != nil:
		return fmt.Errorf("cannot check %s: %s did not end in time: %w", device, check.args[0], context.Cause(ctx))
	case code < 0 || check.args[0] == "e2fsck" && code&4 == 0:
		return fmt.Errorf("cannot check %s: %s failed: %w%s", device, check.args[0], err, out)
	}
	return fmt.Errorf("%w: %s on %s (%s: %w)%s; %s", ErrCheck, article(fsys.Type), device, check.args[0], err, out, fsys.mend(device))
}

// chatter begins lines of the checkers that only say how far they are.
var chatter = []string{"- ", "Phase ", "Pass ", "No modify flag set", "e2fsck 1", "[1/", "[2/", "[3/", "[4/", "[5/", "[6/", "[7/"}

// tool runs a command that asks nothing, with a limit, and gives its exit code and
// the end of its output. What it started ends with it.
func tool(ctx context.Context, name string, args ...string) (output string, code int, err error) {
	return toolIn(ctx, nil, nil, name, args...)
}

// toolIn is tool in a directory, and with an input.
func toolIn(ctx context.Context, dir, input *os.File, name string, args ...string) (output string, code int, err error) {
	// The death signal comes when this thread ends, and not only with the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if dir != nil {
		cmd.Dir = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir.Fd())
	}
	if input != nil { // not as nil in an interface
		cmd.Stdin = input
	}
	var end tail
	cmd.Stdout, cmd.Stderr = &end, &end
	start := time.Now()
	err = cmd.Run()
	slog.Debug("ran", "argv", cmd.Args, "time", time.Since(start), "error", err)
	code = -1
	if cmd.ProcessState != nil {
		code = cmd.ProcessState.ExitCode()
	}
	if text := strings.TrimSpace(string(end.kept)); text != "" {
		var lines []string
		for l := range strings.Lines(text) {
			if l = strings.TrimSpace(l); l != "" && !slices.ContainsFunc(chatter, func(c string) bool { return strings.HasPrefix(l, c) }) {
				lines = append(lines, tty.Line(l))
			}
		}
		output = ": " + strings.Join(lines[max(0, len(lines)-6):], "; ")
	}
	return output, code, err
}

// tail keeps the end of what is written.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	t.kept = t.kept[max(0, len(t.kept)-toolOutput):]
	return len(p), nil
}
