package cmd

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/state"
)

func (a *App) newBootCmd() *cobra.Command {
	o := &bootOptions{}
	var from string
	c := &cobra.Command{
		Use: "boot NAME", Short: "Boot an instance from a volume",
		Args: func(c *cobra.Command, args []string) error {
			if from != "" && len(args) == 0 {
				return nil
			}
			return nameArg(c, args)
		},
		Long: `Boot an LXC container from a block device volume, with the semantics of nova boot:
make the volume where one is to be made, attach it to this host, find the root
filesystem (the whole device, or its first partition), mount it, start the
container, and remove the host's mount again. When a step fails, all that was done
is undone.

The keys of --block-device are described in ` + docs("bdm.md") + `. --from boots what
'lxcboot show --definition' has printed, here or on another host.`,
		Example: `  lxcboot boot --flavor m1.small --block-device source=image,id=ID,dest=volume,size=4,shutdown=PRESERVE,bootindex=0 NAME
  lxcboot boot --flavor m1.small --block-device source=volume,id=ID,dest=volume,size=4,shutdown=preserve,bootindex=0 NAME
  lxcboot boot --flavor m1.tiny --image busybox NAME
  lxcboot boot --from FILE`,
		RunE: func(c *cobra.Command, args []string) error {
			if from != "" {
				return a.bootFrom(c.Context(), c, from, o.dryRun, args)
			}
			return a.boot(c.Context(), o, args[0])
		},
	}
	a.bootFlags(c, o)
	c.Flags().StringVar(&from, "from", "", "file with the definition of an instance, as show --definition prints it; -: standard input. A NAME takes the place of the one in it")
	return c
}

func nameArg(_ *cobra.Command, args []string) error {
	switch len(args) {
	case 0:
		return failure.Invalid("the following arguments are required: name")
	case 1:
		return nil
	}
	return failure.Invalid("one name is expected, and there are %d arguments: %s", len(args), strings.Join(args, " "))
}

func (a *App) boot(ctx context.Context, o *bootOptions, name string) error {
	m, plans, err := a.plan(ctx, o, name, state.Caller{})
	if err != nil {
		return err
	}
	if o.dryRun {
		return a.printPlans(plans)
	}
	if len(plans) > 1 {
		return a.bootMany(ctx, m, o, plans)
	}
	if err := a.print.Check(instanceRecord(instance.View{}).Names()); err != nil {
		return err
	}
	v, err := m.Boot(ctx, plans[0])
	if err != nil {
		return err
	}
	return a.printMade(instanceRecord(v), fmt.Sprintf("instance %q (%s) runs", v.Name, v.ID), fmt.Sprintf("lxcboot show %s shows it, and lxcboot delete %[1]s removes it", v.Name))
}

// plan checks all that was asked for and changes nothing: a plan for each instance.
func (a *App) plan(ctx context.Context, o *bootOptions, name string, caller state.Caller) (*instance.Manager, []instance.Plan, error) {
	req, err := a.bootRequest(ctx, o, name)
	if err != nil {
		return nil, nil, err
	}
	req.Caller = caller
	m, err := a.dialingManager(ctx)
	if err != nil {
		return nil, nil, err
	}
	if err := a.imageWith(ctx, m, &req); err != nil {
		return nil, nil, err
	}
	plans := make([]instance.Plan, max(req.Count, 1))
	for i := range plans {
		one := req
		if len(plans) > 1 {
			one.Name = fmt.Sprintf("%s-%d", name, i+1)
			if req.Spec.Hostname != "" {
				one.Spec.Hostname = fmt.Sprintf("%s-%d", req.Spec.Hostname, i+1)
				one.Spec.Seed.Hostname = one.Spec.Hostname
			}
		}
		if plans[i], err = m.Plan(ctx, one); err != nil {
			return nil, nil, err
		}
	}
	for _, w := range plans[0].Warnings {
		a.warn("%s", w)
	}
	return m, plans, nil
}

// bootMany boots side by side. When one fails, the others are undone too, unless they
// are to be kept.
func (a *App) bootMany(ctx context.Context, m *instance.Manager, o *bootOptions, plans []instance.Plan) error {
	if err := a.print.Check(instanceColumns); err != nil {
		return err
	}
	errs, booted := make([]error, len(plans)), make([]instance.View, len(plans))
	var all errgroup.Group
	all.SetLimit(width)
	for i, p := range plans {
		all.Go(func() (err error) {
			if booted[i], err = m.Boot(ctx, p); err != nil {
				errs[i] = fmt.Errorf("instance %s: %w", p.Name, err)
			}
			return nil
		})
	}
	_ = all.Wait()
	failed := errors.Join(errs...)
	if failed != nil && !o.keepGoing {
		undo, cancel := a.undoContext(ctx)
		defer cancel()
		for i, p := range plans {
			if errs[i] == nil {
				if err := m.Undo(undo, p.Name); err != nil {
					failed = errors.Join(failed, &instance.RollbackError{Instance: p.Name, Cause: errors.New("another instance failed"), Undo: err})
				}
			}
		}
		return failed
	}
	var views []instance.View
	var names []string
	for i, v := range booted {
		if errs[i] == nil {
			views = append(views, v)
			names = append(names, v.Name)
		}
	}
	err := a.printInstances(views, filters{}, false)
	if all := strings.Join(names, " "); err != nil && all != "" {
		err = &hintError{&madeError{"the instances " + strings.Join(names, ", ") + " run", err}, "lxcboot list shows them, and lxcboot delete " + all + " removes them"}
	}
	return errors.Join(err, failed)
}

// imageWith finds the image that --image-with describes.
func (a *App) imageWith(ctx context.Context, m *instance.Manager, req *instance.BootRequest) error {
	if len(req.Blocks.ImageWith) == 0 {
		return nil
	}
	images, err := m.Volumes.Images(ctx)
	if err != nil {
		return err
	}
	var all []bdm.ImageProperties
	for _, i := range images {
		all = append(all, bdm.ImageProperties{ID: i.ID, Name: i.Name, Properties: i.Properties})
	}
	id, warning, err := req.Blocks.MatchImage(all)
	if err != nil {
		return err
	}
	if warning != "" {
		a.warn("%s", warning)
	}
	req.Blocks.Image, req.Blocks.ImageWith = id, nil
	return nil
}

func (a *App) printPlans(plans []instance.Plan) error {
	if a.print.Format == "json" || a.print.Format == "yaml" {
		for i := range plans {
			plans[i].Warnings = append([]string{}, plans[i].Warnings...)
		}
		if len(plans) == 1 {
			return a.print.Encode(plans[0])
		}
		return a.print.Encode(plans)
	}
	l := listing{Columns: []string{"Instance", "Device", "Source", "ID", "Dest", "Size", "Boot index", "On delete", "Mount", "Partition", "Subvolume", "Fsck", "Grow"}}
	for _, p := range plans {
		for _, m := range p.Mappings {
			index := ""
			if m.BootIndex != nil {
				index = fmt.Sprint(*m.BootIndex)
			}
			end := "preserve"
			if m.DeleteOnTermination {
				end = "remove"
			}
			l.Rows = append(l.Rows, []any{p.Name, m.DeviceName, string(m.Source), m.ID, string(m.Dest), m.Size, index, end, m.MountPath, m.Partition, m.Subvolume, p.Spec.Fsck && (m.Root() || m.MountPath != ""), m.Grow})
		}
	}
	return a.print.List(l)
}
