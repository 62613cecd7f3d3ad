package connector

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/volume"
	"github.com/lxcboot/lxcboot/pkg/wait"
)

// commandTimeout bounds every command of the kernel's tools.
const commandTimeout = time.Minute

// Runner runs a command to its end and returns what it wrote to stdout. A
// command that ran and failed is a *CommandError. No argument is ever a secret.
type Runner func(ctx context.Context, argv ...string) (string, error)

// CommandError is a command that ended with a status other than 0.
type CommandError struct {
	Argv   []string
	Code   int
	Stderr string
}

func (e *CommandError) Error() string {
	words := strings.Join(strings.Fields(e.Stderr), " ")
	if words == "" {
		words = "it said nothing"
	}
	return fmt.Sprintf("%s failed with status %d: %s", strings.Join(e.Argv, " "), e.Code, words)
}

// exitCode is the status of a command that failed, or -1.
func exitCode(err error) int {
	var c *CommandError
	if errors.As(err, &c) {
		return c.Code
	}
	return -1
}

// Run is the Runner of this host: a command has a minute, and speaks English.
func Run(ctx context.Context, argv ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	path, err := findTool(argv[0])
	if err != nil {
		return "", failure.Of(volume.ErrUnsupported, "the program %s is not installed", argv[0])
	}
	cmd := exec.CommandContext(ctx, path, argv[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.WaitDelay = 5 * time.Second
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	start := time.Now()
	err = cmd.Run()
	slog.Debug("ran", "argv", cmd.Args, "time", time.Since(start), "error", err)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return stdout.String(), nil
	case ctx.Err() != nil:
		return "", fmt.Errorf("%s did not end: %w", strings.Join(argv, " "), context.Cause(ctx))
	case errors.As(err, &exit):
		return stdout.String(), &CommandError{Argv: argv, Code: exit.ExitCode(), Stderr: stderr.String()}
	default:
		return "", fmt.Errorf("running %s: %w", argv[0], err)
	}
}

// findTool looks for a program in PATH, and where system tools are when PATH
// lacks that.
func findTool(name string) (string, error) {
	path, err := exec.LookPath(name)
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(dir, name))
		}
	}
	return path, err
}

// within runs f, which the kernel may hold for as long as a server is silent,
// and waits for it no longer than ctx allows. f goes on alone after that.
func within(ctx context.Context, what string, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%s did not end: %w", what, context.Cause(ctx))
	}
}

// poll calls f until it says done, fails, or ctx ends.
func poll(ctx context.Context, what string, f func() (bool, error)) error {
	if err := wait.Until(ctx, 5*time.Millisecond, 200*time.Millisecond, f); err != nil {
		return fmt.Errorf("waiting for %s: %w", what, err)
	}
	return nil
}
