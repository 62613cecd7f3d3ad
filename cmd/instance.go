package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func instanceRecord(v instance.View) record {
	var exit any
	if v.Exit != nil && !v.Domain.Active() {
		exit = v.Exit.Code()
	}
	return record{{"id", v.ID}, {"name", v.Name}, {"status", v.Status}, {"note", v.Note}, {"hostname", v.Spec.Hostname}, {"flavor", v.Spec.Flavor.Name},
		{"description", v.Spec.Description}, {"metadata", v.Meta}, {"tags", v.Spec.Tags}, {"image", image(v)}, {"networks", networks(v.NICs)}, {"volumes_attached", volumeIDs(v)}, {"host", v.Host.Name},
		{"created", v.CreatedAt}, {"updated", v.UpdatedAt}, {"privileged", v.Spec.Privileged}, {"init_pid", v.Domain.InitPID}, {"exit_code", exit}, {"restart", v.Spec.Restart.String()}, {"devices", devices(v.Volumes)}}
}

func volumeIDs(v instance.View) (ids []string) {
	for _, x := range v.Volumes {
		ids = append(ids, x.VolumeID)
	}
	return ids
}

// image is the id of the image that an instance's root was made from; empty when it
// was made from none.
func image(v instance.View) string {
	for _, x := range v.Volumes {
		if x.Mapping.Root() && x.Mapping.Source == bdm.SourceImage {
			return x.Mapping.ID
		}
	}
	return ""
}

// networks are an instance's network interfaces: words for people, all of it for
// programs.
type networks []lxc.Interface

func (n networks) String() string {
	var all []string
	for _, nic := range n {
		words := []string{cmp.Or(nic.Network, nic.Bridge)}
		if nic.Network != "" && nic.Bridge != "" {
			words = append(words, "("+nic.Bridge+")")
		}
		all = append(all, strings.Join(append(append(words, nic.Addresses...), nic.MAC), " "))
	}
	return strings.Join(all, ", ")
}

// addresses are networks in few words, as nova's list has them.
type addresses []lxc.Interface

func (n addresses) String() string {
	var all []string
	for _, nic := range n {
		text := cmp.Or(nic.Network, nic.Bridge)
		for i, a := range nic.Addresses {
			address, _, _ := strings.Cut(a, "/")
			text += map[bool]string{true: "=", false: ","}[i == 0] + address
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

// devices are an instance's volumes: a line each for people, all of it for programs.
type devices []state.Volume

func (d devices) String() string {
	var all []string
	for _, v := range d {
		what := v.Mapping.DeviceName + "=" + v.VolumeID
		if f := v.Filesystem; f != nil {
			where := f.Type
			if f.Partition > 0 {
				where += fmt.Sprint(" on partition ", f.Partition)
			}
			if f.Subvolume != "" {
				where += ", subvolume " + f.Subvolume
			}
			what += " (" + where + ")"
		}
		all = append(all, what)
	}
	return strings.Join(all, ", ")
}

// work is what a command does with the Manager.
type work = func(ctx context.Context, m *instance.Manager, args []string) error

// opener gives a command its Manager: manager, or storeManager.
type opener = func(context.Context) (*instance.Manager, error)

func withManager(open opener, do work) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		m, err := open(c.Context())
		if err != nil {
			return err
		}
		return do(c.Context(), m, args)
	}
}

// timed is work that --timeout limits.
func (a *App) timed(do work) work {
	return func(ctx context.Context, m *instance.Manager, args []string) error {
		ctx, cancel := context.WithTimeout(ctx, a.settings.Timeout)
		defer cancel()
		return do(ctx, m, args)
	}
}

// eachInstance is a command that does one thing to every instance that is named, each
// within --timeout.
func (a *App) eachInstance(verb, short string, open opener, do func(ctx context.Context, m *instance.Manager, ref string) error) *cobra.Command {
	return &cobra.Command{
		Use: verb + " INSTANCE...", Short: short, Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		RunE: withManager(open, func(ctx context.Context, m *instance.Manager, args []string) error {
			return each(args, func(ref string) error {
				err := a.timed(func(ctx context.Context, m *instance.Manager, _ []string) error { return do(ctx, m, ref) })(ctx, m, nil)
				return patternHint(verb, ref, err)
			})
		}),
	}
}

// patternHint tells who named instances by a pattern how that is done.
func patternHint(verb, ref string, err error) error {
	if !errors.Is(err, state.ErrNotFound) || !strings.ContainsAny(ref, "*?[") {
		return err
	}
	part := ref[:strings.IndexAny(ref, "*?[")]
	return &hintError{err, fmt.Sprintf("patterns are not taken, and a shell makes file names of them; lxcboot list --name '%s' -f value -c Name | xargs -r lxcboot %s takes all that have that in their names", part, verb)}
}

// width is how many things a command works on at once.
const width = 8

// each does something to everything that was named, side by side, and goes on when one
// fails.
func each(refs []string, do func(string) error) error {
	errs := make([]error, len(refs))
	var all errgroup.Group
	all.SetLimit(width)
	for i, ref := range refs {
		all.Go(func() error {
			errs[i] = do(ref)
			return nil
		})
	}
	_ = all.Wait() // the errors are in the order of what was named
	return errors.Join(errs...)
}

// running is an instance whose container runs.
func running(ctx context.Context, m *instance.Manager, ref string) (instance.View, error) {
	v, err := m.Show(ctx, ref)
	if err == nil && !v.Domain.Active() {
		err = &hintError{fmt.Errorf("instance %q: %w", v.Name, lxc.ErrNotRunning), "lxcboot start " + v.Name}
	}
	return v, err
}
