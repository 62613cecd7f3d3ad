package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/host"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/transfer"
)

// maxWarnings is how much is told of what was left out: a container may say it without end.
const maxWarnings = 50

// place is an end of a copy, as it is typed: INSTANCE:PATH, or a path here.
type place struct{ instance, path string }

// stream says whether the place is stdin or stdout.
func (p place) stream() bool { return p.instance == "" && p.path == "-" }

// placeOf reads an end of a copy, as docker cp does: a path that begins with / or . is one of
// this host, whatever is in it.
func placeOf(arg string) (place, error) {
	name, path, ok := strings.Cut(arg, ":")
	switch {
	case !ok || strings.HasPrefix(arg, "/") || strings.HasPrefix(arg, "."):
		if arg == "" {
			return place{}, failure.Invalid("cp: an empty path names nothing")
		}
		return place{"", arg}, nil
	case name == "":
		return place{}, failure.Invalid("cp: %q names no instance before the colon; a file of this host that is called so is ./%[1]s", arg)
	case path == "":
		return place{}, failure.Invalid("cp: %q names no path in the instance; its root is %[1]s/", arg)
	case !strings.HasPrefix(path, "/"):
		path = "/" + path
	}
	return place{name, path}, nil
}

// copying is a run of cp.
type copying struct {
	from, to      place
	follow, owner bool
}

func (a *App) newCpCmd() *cobra.Command {
	var c copying
	cp := &cobra.Command{
		Use: "cp SOURCE TARGET", Short: "Copy files into a running instance, or out of it", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeCp,
		Long: `Copy files and directories into a running instance, or out of it. One of the two is
INSTANCE:PATH, the other a path of this host, or - for a tar archive on stdin or stdout.

A file is copied to the name that is given, or into the directory of that name, which has
to be there if the name ends with a slash. A directory is copied into the one that is
given, or becomes it if there is none; of DIR/. the content is copied. Directories above the
target have to be there.

In the instance the copy belongs to root, and here to whoever copies; mode and time are kept,
but for setuid and setgid. A link is copied as a link. What is there is replaced, a
file at once when its copy is whole; directories are merged.`,
		Example: `  lxcboot cp site.conf web1:/etc/nginx/conf.d/
  lxcboot cp web1:/var/log ./logs
  tar -c -C build . | lxcboot cp - web1:/srv/www
  lxcboot cp web1:/etc - | tar -t`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var err error
			if c.from, err = placeOf(args[0]); err != nil {
				return err
			}
			if c.to, err = placeOf(args[1]); err != nil {
				return err
			}
			if err := a.checkCopy(c); err != nil {
				return err
			}
			return withManager(a.manager, func(ctx context.Context, m *instance.Manager, _ []string) error { return a.copy(ctx, m, c) })(cmd, nil)
		},
	}
	f := cp.Flags()
	f.BoolVarP(&c.owner, "archive", "a", false, "keep user and group, as the instance has them; and setuid and setgid into it")
	f.BoolVarP(&c.follow, "follow-link", "L", false, "where SOURCE is a link, copy what it leads to")
	return cp
}

// checkCopy refuses what cannot be copied, wherever it is.
func (a *App) checkCopy(c copying) error {
	switch {
	case c.from.instance == "" && c.to.instance == "":
		return failure.Invalid("cp: neither %q nor %q is in an instance: one of them has to be INSTANCE:PATH", c.from.path, c.to.path)
	case c.from.instance != "" && c.to.instance != "":
		return &hintError{failure.Invalid("cp: both ends are in an instance: one of them has to be of this host"),
			fmt.Sprintf("lxcboot cp %s:%s - | lxcboot cp - %s:%s", c.from.instance, c.from.path, c.to.instance, c.to.path)}
	case c.from.stream() && isTerminal(a.In):
		return failure.Invalid("cp: stdin is a terminal, and - reads a tar archive from it")
	case c.to.stream() && isTerminal(a.Out):
		return failure.Invalid("cp: stdout is a terminal, and - writes a tar archive to it")
	}
	return nil
}

// copy copies, with lxcboot-copy on the instance's side.
func (a *App) copy(ctx context.Context, m *instance.Manager, c copying) error {
	v, err := running(ctx, m, c.from.instance+c.to.instance)
	if err != nil {
		return err
	}
	program, err := host.Program("lxcboot-copy")
	if err != nil {
		return err
	}
	peer := func(ctx context.Context, args []string, in io.Reader, out, errs io.Writer) (int, error) {
		return a.domains.Exec(ctx, v.ID, lxc.ExecOptions{
			Argv: append([]string{"lxcboot-copy"}, args...), Sealed: program, Dir: "/", Env: map[string]string{"GOMAXPROCS": "2"},
			Stdin: in, Stdout: out, Stderr: errs,
		})
	}
	step, done := a.progress("copying " + filepath.Base(c.from.path))
	var total int64
	count := func(n int) {
		if total += int64(n); step != nil {
			step(total, 0)
		}
	}
	said := 0
	warn := func(text string) {
		if said++; said <= maxWarnings {
			a.warn("%s", text)
		}
	}
	if c.to.instance != "" {
		err = a.copyIn(ctx, peer, c, warn, count)
	} else {
		err = a.copyOut(ctx, peer, c, warn, count)
	}
	done()
	if said > maxWarnings {
		a.warn("and %d more warnings", said-maxWarnings)
	}
	var remote *transfer.RemoteError
	if errors.As(err, &remote) {
		return fmt.Errorf("instance %q: %w", v.Name, err)
	}
	return err
}

func (a *App) copyIn(ctx context.Context, peer transfer.Peer, c copying, warn func(string), count func(int)) error {
	o := transfer.UnpackOptions{Owner: c.owner, Members: c.from.stream()}
	send := func(w *transfer.Writer) error { return transfer.FromTar(w, a.In) }
	if !o.Members {
		o.Base, _ = transfer.Base(c.from.path)
		send = func(w *transfer.Writer) error {
			return transfer.Pack(w, c.from.path, transfer.PackOptions{Follow: c.follow, Pipes: true})
		}
	}
	return transfer.In(ctx, peer, send, c.to.path, o, warn, count)
}

func (a *App) copyOut(ctx context.Context, peer transfer.Peer, c copying, warn func(string), count func(int)) error {
	base, _ := transfer.Base(c.from.path)
	receive := func(r *transfer.Reader) error {
		if c.to.stream() {
			return transfer.ToTar(r, a.Out, base)
		}
		o := transfer.UnpackOptions{Base: base, Owner: c.owner, UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
		return transfer.Unpack(r, c.to.path, o)
	}
	return transfer.Out(ctx, peer, c.from.path, c.follow, receive, warn, count)
}

// completeCp completes the names of instances, and leaves paths to the shell.
func (a *App) completeCp(c *cobra.Command, given []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(given) > 1 || strings.ContainsAny(typed, ":/.") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	names, _ := a.completer(a.instanceNames, true)(c, given, typed)
	var all []string
	for _, n := range names {
		if strings.HasPrefix(n, typed) {
			all = append(all, n+":")
		}
	}
	if len(all) == 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return all, cobra.ShellCompDirectiveNoSpace
}
