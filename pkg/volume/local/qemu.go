package local

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
)

// errNoQemu says what to install.
var errNoQemu = errors.New("qemu-img is not installed: run 'apt-get install qemu-utils'")

// limits holds qemu-img in check, as OpenStack does: an image can be made so that
// reading it takes all memory or never ends.
type limits struct {
	wait   time.Duration
	memory int64 // bytes of address space
	cpu    int   // seconds; 0: only the wait limits it
	file   int64 // bytes of the largest file written
	// progress, when set, is told how much of a hundred is done, of what is run with -p.
	progress func(percent float64)
}

// qemuImg runs qemu-img within limits and gives its output.
func qemuImg(ctx context.Context, l limits, args ...string) ([]byte, error) {
	if _, err := exec.LookPath("qemu-img"); err != nil {
		return nil, errNoQemu
	}
	ctx, cancel := context.WithTimeout(ctx, l.wait)
	defer cancel()
	argv := []string{"--as=" + strconv.FormatInt(l.memory, 10), "--core=0", "--fsize=" + strconv.FormatInt(l.file, 10)}
	if l.cpu != 0 {
		argv = append(argv, "--cpu="+strconv.Itoa(l.cpu))
	}
	argv = append(append(argv, "--", "qemu-img"), args...)
	cmd := exec.CommandContext(ctx, "prlimit", argv...)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TMPDIR=/nonexistent"}
	cmd.Dir = "/"
	cmd.WaitDelay = 5 * time.Second
	// The child goes when we go. The kernel means the thread that started it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stdout bytes.Buffer
	var stderr capped
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if l.progress != nil {
		cmd.Stdout = &percents{tell: l.progress}
	}
	start := time.Now()
	err := cmd.Run()
	slog.Debug("ran", "argv", cmd.Args, "time", time.Since(start), "error", err)
	if ctx.Err() == context.DeadlineExceeded {
		return nil, fmt.Errorf("qemu-img %s did not end within %v", args[0], l.wait)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		failed := &qemuError{args[0], strings.TrimSpace(stderr.String()), err}
		if strings.Contains(failed.first(), syscall.ENOSPC.Error()) || strings.Contains(failed.first(), "No space left on device") {
			return nil, fmt.Errorf("qemu-img %s: %w", args[0], syscall.ENOSPC)
		}
		return nil, failed
	}
	return stdout.Bytes(), nil
}

// capped keeps the first 16 MiB of what is written to it: an image decides how much qemu-img
// has to say of it.
type capped struct{ bytes.Buffer }

func (c *capped) Write(p []byte) (int, error) {
	c.Buffer.Write(p[:min(len(p), max(0, 16<<20-c.Len()))])
	return len(p), nil
}

// percents reads what qemu-img -p prints, (12.34/100%) after a carriage return each.
type percents struct {
	tell func(percent float64)
	kept []byte
}

var aPercent = regexp.MustCompile(`\(([0-9.]+)/100%\)`)

func (p *percents) Write(b []byte) (int, error) {
	p.kept = append(p.kept, b...)
	if all := aPercent.FindAllSubmatch(p.kept, -1); all != nil {
		if percent, err := strconv.ParseFloat(string(all[len(all)-1][1]), 64); err == nil {
			p.tell(percent)
		}
	}
	p.kept = p.kept[max(bytes.LastIndexByte(p.kept, '('), len(p.kept)-64, 0):]
	return len(b), nil
}

// qemuError is a qemu-img that failed.
type qemuError struct {
	command, said string
	err           error
}

func (e *qemuError) Error() string {
	return fmt.Sprintf("qemu-img %s: %v: %s", e.command, e.err, e.first())
}

func (e *qemuError) Unwrap() error { return e.err }

func (e *qemuError) first() string {
	line, _, _ := strings.Cut(e.said, "\n")
	return line
}

// onlyCounts says whether a check found nothing amiss but how often clusters are used, which
// only who writes to the image needs to know: with lazy_refcounts that is written at its end.
func (e *qemuError) onlyCounts() bool {
	for line := range strings.Lines(e.said) {
		if !reference.MatchString(strings.TrimSpace(line)) {
			return false
		}
	}
	return e.said != ""
}

// reference is a line of such a check.
var reference = regexp.MustCompile(`^((ERROR|Leaked) cluster \d+ refcount=\d+ reference=\d+|ERROR OFLAG_COPIED (L2|data) cluster: .*refcount=\d+)$`)

// qemuFile names an image file to qemu-img by its exact format, so that nothing
// is guessed from its content or its name, and no backing file is ever opened.
func qemuFile(format, path string) string { return qemuNode(format, "file", path) }

// qemuNode is qemuFile with QEMU's driver for what is at path: file or host_device.
func qemuNode(format, driver, path string) string {
	node := map[string]any{"driver": format, "file": map[string]any{"driver": driver, "filename": path}}
	if format == formatQcow2 || format == formatVMDK {
		node["backing"] = nil
	}
	b, err := json.Marshal(node)
	if err != nil {
		panic(err) // strings and nil can be marshalled
	}
	return "json:" + string(b)
}

// verify asks qemu-img whether it sees in an image what inspect saw, and nothing
// that inspect is there to refuse.
func verify(ctx context.Context, path string, in inspection) error {
	out, err := qemuImg(ctx, limits{wait: time.Minute, memory: 1 << 30, cpu: 30}, "info", "--output=json", qemuFile(in.Format, path))
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, errNoQemu) {
			return err
		}
		return failure.Invalid("it can not be read as %s (%v)", in.Format, err)
	}
	var info struct {
		Format      string `json:"format"`
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
		FullBacking string `json:"full-backing-filename"`
		Encrypted   bool   `json:"encrypted"`
		Specific    struct {
			Data struct {
				DataFile string          `json:"data-file"`
				Encrypt  json.RawMessage `json:"encrypt"`
				Corrupt  bool            `json:"corrupt"`
				Extents  []struct {
					Filename string `json:"filename"`
				} `json:"extents"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &info); err != nil {
		return fmt.Errorf("qemu-img info gave no JSON: %w", err)
	}
	data := info.Specific.Data
	switch {
	case info.Format != in.Format:
		return failure.Invalid("its content says %s, qemu-img says %s", in.Format, info.Format)
	case info.Backing != "" || info.FullBacking != "":
		return failure.Invalid("it names the backing file %q, which is not part of it", info.Backing+info.FullBacking)
	case data.DataFile != "":
		return failure.Invalid("it names the data file %q, which is not part of it", data.DataFile)
	case info.Encrypted || len(data.Encrypt) != 0:
		return failure.Invalid("it is encrypted, and there is no key to read it with")
	case data.Corrupt:
		return failure.Invalid("it is marked as corrupt")
	case info.VirtualSize != in.VirtualSize:
		return failure.Invalid("its header describes a disk of %d bytes, qemu-img sees %d", in.VirtualSize, info.VirtualSize)
	}
	for _, e := range data.Extents {
		if e.Filename != path {
			return failure.Invalid("it names the file %q, which is not part of it", e.Filename)
		}
	}
	return checkWhole(ctx, path, in)
}

// checkWhole refuses an image whose tables point to what is not there, as after a
// download that broke off: qemu-img convert would take it for zeros.
func checkWhole(ctx context.Context, path string, in inspection) error {
	_, err := qemuImg(ctx, limits{wait: 5 * time.Minute, memory: 1 << 30, cpu: 120}, "check", "-q", qemuFile(in.Format, path))
	const leaks, unsupported = 3, 63 // clusters that nobody uses do no harm
	var exit *exec.ExitError
	var failed *qemuError
	switch {
	case in.Unclean && errors.As(err, &failed) && failed.onlyCounts():
		return nil
	case errors.As(err, &exit) && (exit.ExitCode() == leaks || exit.ExitCode() == unsupported):
		return nil
	case err != nil && ctx.Err() == nil && !errors.Is(err, errNoQemu):
		return failure.Invalid("it is corrupt or not whole, for instance a broken download (%v)", err)
	}
	return err
}

// convert writes the disk that an image describes into a raw file, which exists,
// is at least as large, and is one hole.
func (s *Store) convert(ctx context.Context, image source, raw string, sizeGiB int) error {
	step, finish := s.progress("converting image "+image.id, image.size)
	defer finish()
	l := limits{
		wait:     convertLimit(sizeGiB),
		memory:   2 << 30,
		file:     int64(sizeGiB) << 30,
		progress: func(percent float64) { step(int64(percent / 100 * float64(image.size))) },
	}
	path := filepath.Join(s.images.path(image.id), dataName)
	_, err := qemuImg(ctx, l, "convert", "-p", "-n", "--target-is-zero", "-O", "raw", qemuFile(image.format, path), raw)
	if err != nil && !errors.Is(err, syscall.ENOSPC) && !errors.Is(err, errNoQemu) && ctx.Err() == nil {
		return failure.Invalid("%w", err)
	}
	return err
}
