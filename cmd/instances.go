package cmd

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/lxc"
)

func instanceRecord(v instance.View) record {
	var volumes []string
	for _, x := range v.Volumes {
		volumes = append(volumes, x.VolumeID)
	}
	r := record{{"id", v.ID}, {"name", v.Name}, {"status", v.Status}, {"note", v.Note}, {"hostname", v.Spec.Hostname}, {"flavor", v.Spec.Flavor.Name},
		{"description", v.Spec.Description}, {"metadata", v.Meta}, {"tags", v.Spec.Tags}, {"image", image(v)}, {"networks", networks(v.Spec.NICs)}, {"volumes_attached", volumes}, {"host", v.Host},
		{"created", v.CreatedAt}, {"updated", v.UpdatedAt}, {"privileged", v.Spec.Privileged}, {"init_pid", v.Domain.InitPID}, {"devices", devices(v.Volumes)}}
	return r
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
		words := append([]string{nic.Network + nic.Bridge}, nic.Addresses...)
		all = append(all, strings.Join(append(words, nic.MAC), " "))
	}
	return strings.Join(all, ", ")
}

// devices are an instance's volumes: a line each for people, all of it for programs.
type devices []instance.VolumeRecord

func (d devices) String() string {
	var all []string
	for _, v := range d {
		what := v.Mapping.DeviceName + "=" + v.VolumeID
		if f := v.Filesystem; f != nil && f.Partition > 0 {
			what += fmt.Sprintf(" (%s on partition %d)", f.Type, f.Partition)
		} else if f != nil {
			what += " (" + f.Type + ")"
		}
		all = append(all, what)
	}
	return strings.Join(all, ", ")
}

func (a *App) printInstances(views []instance.View, long bool) error {
	l := listing{columns: []string{"ID", "Name", "Status", "Flavor", "Created"}}
	if long {
		l.columns = append(l.columns, "Networks", "Image", "Host", "Volumes", "Note")
	}
	for _, v := range views {
		row := []any{v.ID, v.Name, v.Status, v.Spec.Flavor.Name, v.CreatedAt}
		if long {
			var volumes []string
			for _, x := range v.Volumes {
				volumes = append(volumes, x.VolumeID)
			}
			row = append(row, networks(v.Spec.NICs), image(v), v.Host, volumes, v.Note)
		}
		l.rows = append(l.rows, row)
	}
	return a.printList(l)
}

func (a *App) newListCmd() *cobra.Command {
	var all, long bool
	var statuses []string
	var name string
	c := &cobra.Command{
		Use: "list", Short: "List instances", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			for _, s := range statuses {
				if !slices.Contains(instance.Statuses, strings.ToUpper(s)) {
					return usagef("--status %q is not one of %s", s, strings.Join(instance.Statuses, ", "))
				}
			}
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			views, damaged := m.List(c.Context())
			if damaged != nil && !errors.Is(damaged, instance.ErrDamaged) {
				return damaged
			}
			views = slices.DeleteFunc(views, func(v instance.View) bool {
				return len(statuses) > 0 && !slices.ContainsFunc(statuses, func(s string) bool { return strings.EqualFold(s, v.Status) }) ||
					name != "" && !strings.Contains(v.Name, name)
			})
			return errors.Join(a.printInstances(views, long), damaged)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "accepted: all instances are always listed")
	c.Flags().BoolVar(&long, "long", false, "more columns")
	repeated(c.Flags(), &statuses, "status", "only of this status (can be repeated)")
	c.Flags().StringVar(&name, "name", "", "only with this in their name")
	_ = c.RegisterFlagCompletionFunc("status", cobra.FixedCompletions(instance.Statuses, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func (a *App) newShowCmd() *cobra.Command {
	var usage bool
	c := &cobra.Command{
		Use: "show INSTANCE", Short: "Show an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			v, err := m.Show(c.Context(), args[0])
			if err != nil {
				return err
			}
			if usage && !v.Domain.Active() {
				return notRunning(v)
			}
			r := instanceRecord(v)
			if usage {
				u, err := a.domains.Usage(c.Context(), v.ID)
				if err != nil {
					return err
				}
				r = append(r, record{{"memory_bytes", u.MemoryBytes}, {"memory_limit_bytes", u.MemoryLimit}, {"cpu_seconds", u.CPUTime.Seconds()}, {"cpu_limit", u.CPULimit},
					{"block_read_bytes", u.BlockReadBytes}, {"block_write_bytes", u.BlockWriteBytes}, {"processes", u.Processes}}...)
			}
			return a.printRecord(r)
		},
	}
	c.Flags().BoolVar(&usage, "usage", false, "also what the container uses now")
	return c
}

func (a *App) newStopCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "stop INSTANCE...", Short: "Stop instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		Long: "Ask the container's init to end, and end it when it has not after --stop-timeout (60 s). The volumes stay attached.",
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			_, err := m.Stop(ctx, ref, force)
			return err
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "end it at once")
	a.stopTimeoutFlag(c)
	return c
}

func (a *App) stopTimeoutFlag(c *cobra.Command) {
	c.Flags().Duration("stop-timeout", time.Minute, "how long the container has to end by itself")
}

// withEach runs an operation on every instance that is named, each within the
// timeout.
func (a *App) withEach(do func(context.Context, *instance.Manager, string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		m, err := a.manager(c.Context())
		if err != nil {
			return err
		}
		return each(args, func(ref string) error {
			ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
			defer cancel()
			return do(ctx, m, ref)
		})
	}
}

func (a *App) newStartCmd() *cobra.Command {
	return &cobra.Command{
		Use: "start INSTANCE...", Short: "Start stopped instances", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			_, err := m.Start(ctx, ref)
			return err
		}),
	}
}

func (a *App) newRebootCmd() *cobra.Command {
	var hard bool
	c := &cobra.Command{
		Use: "reboot INSTANCE...", Short: "Stop instances and start them again", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			_, err := m.Reboot(ctx, ref, hard)
			return err
		}),
	}
	c.Flags().BoolVar(&hard, "hard", false, "end the container without asking its init")
	c.Flags().Bool("poll", false, "accepted: reboot always waits until the instance runs")
	return c
}

func (a *App) newDeleteCmd() *cobra.Command {
	var force bool
	c := &cobra.Command{
		Use: "delete INSTANCE...", Short: "Delete instances, whatever state they are in", Args: cobra.MinimumNArgs(1), ValidArgsFunction: a.completer(a.instanceNames, true),
		Long: `Undo everything that booting the instance did, and remove it. Volumes marked
shutdown=remove go with it; the others stay. A delete that failed or was interrupted
can be called again, and so can one after an interrupted boot.`,
		RunE: a.withEach(func(ctx context.Context, m *instance.Manager, ref string) error {
			rec, err := m.Delete(ctx, ref)
			if errors.Is(err, instance.ErrNotFound) && force {
				return nil
			}
			if err != nil {
				return fmt.Errorf("cannot delete instance %q: %w", orRef(rec.Name, ref), err)
			}
			return nil
		}),
	}
	c.Flags().BoolVar(&force, "force", false, "an instance that is not there is no error")
	return c
}

func orRef(name, ref string) string {
	if name == "" {
		return ref
	}
	return name
}

func (a *App) newRenameCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rename INSTANCE NAME", Short: "Give a stopped instance another name", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.Context(), a.settings.Timeout)
			defer cancel()
			return m.Rename(ctx, args[0], args[1])
		},
	}
}

func (a *App) newSetCmd() *cobra.Command {
	var pairs []string
	var description string
	c := &cobra.Command{
		Use: "set INSTANCE", Short: "Set metadata or the description of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			meta, err := keyValues("--property", pairs)
			if err != nil {
				return err
			}
			if len(meta) == 0 && !c.Flags().Changed("description") {
				return usagef("set needs --property KEY=VALUE or --description TEXT")
			}
			return a.change(c.Context(), args[0], func(r *instance.Record) error {
				if r.Meta == nil {
					r.Meta = map[string]string{}
				}
				maps.Copy(r.Meta, meta)
				if c.Flags().Changed("description") {
					r.Spec.Description = description
				}
				return nil
			})
		},
	}
	repeated(c.Flags(), &pairs, "property", "KEY=VALUE (can be repeated)")
	c.Flags().StringVar(&description, "description", "", "description of the instance")
	return c
}

func (a *App) newUnsetCmd() *cobra.Command {
	var keys []string
	c := &cobra.Command{
		Use: "unset INSTANCE", Short: "Remove metadata of an instance", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		RunE: func(c *cobra.Command, args []string) error {
			if len(keys) == 0 {
				return usagef("unset needs --property KEY")
			}
			return a.change(c.Context(), args[0], func(r *instance.Record) error {
				for _, k := range keys {
					if _, ok := r.Meta[k]; !ok {
						return usagef("instance %q has no property %q", r.Name, k)
					}
					delete(r.Meta, k)
				}
				return nil
			})
		},
	}
	repeated(c.Flags(), &keys, "property", "KEY (can be repeated)")
	return c
}

// change changes a record that nothing else works on.
func (a *App) change(ctx context.Context, ref string, do func(*instance.Record) error) error {
	m, err := a.manager(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, a.settings.Timeout)
	defer cancel()
	return m.Change(ctx, ref, do)
}

func (a *App) newWaitCmd() *cobra.Command {
	var status string
	known := []string{instance.StatusActive, instance.StatusShutoff, instance.StatusPaused, instance.StatusError}
	c := &cobra.Command{
		Use: "wait INSTANCE --for STATUS", Short: "Wait until an instance has a status", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completer(a.instanceNames, false),
		Long: "Wait until an instance has a status (ACTIVE, SHUTOFF or another), at most --timeout. An instance in status ERROR ends the wait.",
		RunE: func(c *cobra.Command, args []string) error {
			want := strings.ToUpper(status)
			if !slices.Contains(known, want) {
				return usagef("--for %q is not one of %s", status, strings.Join(known, ", "))
			}
			m, err := a.manager(c.Context())
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeoutCause(c.Context(), a.settings.Timeout, fmt.Errorf("instance %q did not become %s within %v", args[0], want, a.settings.Timeout))
			defer cancel()
			for {
				v, err := m.Show(ctx, args[0])
				switch {
				case err != nil:
					return err
				case v.Status == want:
					return nil
				case v.Status == instance.StatusError:
					return fmt.Errorf("%w: instance %q is in status ERROR: %s", instance.ErrState, v.Name, v.Note)
				}
				select {
				case <-ctx.Done():
					return context.Cause(ctx)
				case <-time.After(100 * time.Millisecond):
				}
			}
		},
	}
	c.Flags().StringVar(&status, "for", "", "the status to wait for")
	_ = c.MarkFlagRequired("for")
	_ = c.RegisterFlagCompletionFunc("for", cobra.FixedCompletions(known, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// running is an instance whose container runs.
func (a *App) running(ctx context.Context, ref string) (instance.View, error) {
	m, err := a.manager(ctx)
	if err != nil {
		return instance.View{}, err
	}
	v, err := m.Show(ctx, ref)
	if err != nil {
		return v, err
	}
	if !v.Domain.Active() {
		return v, notRunning(v)
	}
	return v, nil
}

func notRunning(v instance.View) error {
	return &hintError{fmt.Errorf("instance %q: %w", v.Name, lxc.ErrNotRunning), "lxcboot start " + v.Name}
}
