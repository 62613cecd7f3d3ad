package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
	"github.com/lxcboot/lxcboot/pkg/pacemaker"
	"github.com/lxcboot/lxcboot/pkg/state"
	"github.com/lxcboot/lxcboot/pkg/tty"
	"github.com/lxcboot/lxcboot/pkg/volume"
)

// The exit codes of the OCF standard. What Pacemaker does after a start that failed: with
// ocfGeneric it may try again, also here; with ocfArgs, ocfPermission and ocfInstalled on
// other hosts alone; with ocfConfigured nowhere. A stop that fails has the host fenced.
const (
	ocfSuccess       = 0
	ocfGeneric       = 1
	ocfArgs          = 2
	ocfUnimplemented = 3
	ocfPermission    = 4
	ocfInstalled     = 5
	ocfConfigured    = 6
	ocfNotRunning    = 7
)

// ocfCodes are the OCF codes of ours. What is wrong in the resource's own parameters is
// ocfConfigured, before anything is asked of this host.
var ocfCodes = map[int]int{
	exitFailure:     ocfGeneric,
	exitUsage:       ocfArgs,      // what is asked for is not here, as a bridge
	exitNotFound:    ocfInstalled, // a volume that this host does not see, a flavor that it lacks
	exitConflict:    ocfGeneric,
	exitUnreachable: ocfGeneric,
	exitUnfit:       ocfInstalled,
	exitIncomplete:  ocfGeneric,
}

// parameterError is a mistake in the parameters of the resource.
type parameterError struct{ error }

func (e parameterError) Unwrap() error { return e.error }

func wrongParameter(format string, args ...any) error {
	return parameterError{failure.Invalid(format, args...)}
}

func (a *App) newOCFCmd() *cobra.Command {
	return &cobra.Command{
		Use: "ocf ACTION", Short: "Act as Pacemaker's agent ocf:lxcboot:instance", Args: cobra.ExactArgs(1),
		ValidArgs: []string{"start", "stop", "monitor", "validate-all", "meta-data"},
		Long: `Do an action of the resource agent ocf:lxcboot:instance, and end with the exit codes of
the OCF standard. Pacemaker calls it; its parameters are in the environment. start boots
the instance, and stop deletes it and keeps its volumes. See ` + docs("cluster.md") + `.`,
		PersistentPreRunE: func(c *cobra.Command, args []string) error {
			if len(args) > 0 && args[0] == "meta-data" {
				return nil // whatever the configuration says
			}
			return a.prepare(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error { return a.ocf(c.Context(), args[0]) },
	}
}

// ocf does an action. The reason of a failure is where Pacemaker shows it.
func (a *App) ocf(ctx context.Context, action string) error {
	a.quiet = true
	code, err := a.ocfAction(ctx, action)
	if err = interruption(ctx, err); err != nil {
		var known bool
		ours, _ := classify(err)
		if code, known = ocfCodes[ours]; !known {
			code = ocfGeneric
		}
		switch _, parameter := errors.AsType[parameterError](err); {
		case parameter:
			code = ocfConfigured
		case errors.Is(err, errNotRoot):
			code = ocfPermission
		}
		fmt.Fprintf(a.Err, "ocf-exit-reason:%s\n", strings.ReplaceAll(tty.Lines(message(err)), "\n", "; "))
	}
	if code == ocfSuccess {
		return nil
	}
	return exitError(code)
}

func (a *App) ocfAction(ctx context.Context, action string) (code int, err error) {
	if action == "meta-data" {
		return ocfSuccess, a.ocfMetaData()
	}
	p, limit := ocfParameters(), ocfLimit()
	// What a cancelled start undoes has to fit into the rest.
	share := limit * 9 / 10
	if action == "start" {
		share = limit * 7 / 10
	}
	a.settings.Timeout, a.settings.StopTime = share, min(a.settings.StopTime, limit/2)
	ctx, cancel := context.WithTimeoutCause(ctx, share, fmt.Errorf("it did not end within %v, and Pacemaker waits for %v: %w", share, limit, context.DeadlineExceeded))
	defer cancel()
	switch action {
	case "start":
		a.settings.Timeout = limit / 5 // for the undoing
		return ocfSuccess, a.ocfStart(ctx, p)
	case "stop":
		return ocfSuccess, a.ocfStop(ctx, p)
	case "monitor", "status":
		return a.ocfMonitor(ctx, p)
	case "validate-all":
		_, err := a.ocfOptions(ctx, p)
		return ocfSuccess, err
	}
	return ocfUnimplemented, nil
}

// ocfLimit is how long Pacemaker waits for the action.
func ocfLimit() time.Duration {
	ms, err := strconv.ParseInt(os.Getenv("OCF_RESKEY_CRM_meta_timeout"), 10, 64)
	if err != nil || ms <= 0 {
		return 2 * time.Minute
	}
	return time.Duration(ms) * time.Millisecond
}

// ocfMonitor says whether the container runs. It asks no store.
func (a *App) ocfMonitor(ctx context.Context, p parameters) (code int, err error) {
	may, _ := p.mayTake()
	if interval := os.Getenv("OCF_RESKEY_CRM_meta_interval"); may && (interval == "" || interval == "0") {
		a.publish(ctx)
	}
	m, err := a.manager(ctx)
	if err != nil {
		return 0, err
	}
	v, err := m.Show(ctx, p.name)
	switch {
	case errors.Is(err, state.ErrNotFound):
		return ocfNotRunning, nil
	case err != nil:
		return 0, err
	case !v.Domain.Active(), !ofCluster(v.Record):
		return ocfNotRunning, nil
	case v.Phase != state.Built:
		return 0, failure.Of(state.ErrState, "the container of instance %q runs, and is not whole: its boot or its delete is under way, or was interrupted", v.Name)
	}
	return ocfSuccess, nil
}

// ocfStop has the container end, and deletes the instance, so that its volumes are free for
// the next host. A delete alone would not ask the container to end. The store is asked where
// there is something to delete: after a start that failed because the cloud is away, a stop that
// failed too would have the host fenced.
func (a *App) ocfStop(ctx context.Context, p parameters) error {
	m, err := a.manager(ctx)
	if err != nil {
		return err
	}
	rec, err := m.Store.Named(p.name)
	if err != nil || !ofCluster(rec) {
		return deleted(err)
	}
	if m, err = a.storeManager(ctx); err != nil {
		return err
	}
	if _, err := m.Stop(ctx, rec.ID, false); err != nil && !errors.Is(err, state.ErrState) {
		return deleted(err)
	}
	_, err = m.DeleteKeeping(ctx, rec.ID)
	return deleted(err)
}

// ofCluster says that Pacemaker booted an instance. What somebody booted by hand under the
// name of a resource is left alone: a stop, and a host that is asked what it has when it joins the
// cluster, must not delete it.
func ofCluster(r state.Record) bool { return r.Caller.Name == state.CallerPacemaker }

func (a *App) ocfStart(ctx context.Context, p parameters) error {
	o, err := a.ocfOptions(ctx, p)
	if err != nil {
		return err
	}
	may, _ := p.mayTake()
	if may {
		a.publish(ctx)
	}
	m, err := a.storeManager(ctx)
	if err != nil {
		return err
	}
	switch v, err := m.Show(ctx, p.name); {
	case err == nil && !ofCluster(v.Record):
		return failure.Of(state.ErrState, "instance %q of this host was not booted by Pacemaker, which leaves it alone: 'lxcboot delete --keep-volumes %[1]s', or rename it, and then 'crm resource cleanup'", v.Name)
	case err == nil && v.Domain.Active() && v.Phase == state.Built:
		return nil
	case err == nil:
		// It is what an earlier life here has left.
		if _, err := m.DeleteKeeping(ctx, v.ID); err != nil {
			return err
		}
	case !errors.Is(err, state.ErrNotFound):
		return err
	}
	if err := a.takeOver(ctx, m, o, may); err != nil {
		return err
	}
	m, plans, err := a.plan(ctx, o, p.name, state.Caller{Name: state.CallerPacemaker})
	switch {
	case err != nil:
		return err
	case len(plans) > 1:
		return wrongParameter("options: a resource is one instance; leave --min-count and --max-count out")
	}
	v, err := m.Boot(ctx, plans[0])
	if err == nil && !v.Domain.Active() {
		err = fmt.Errorf("instance %q does not run: %s", v.Name, v.Note)
	}
	return err
}

// publish tells the cluster in which start this host is. One that cannot be told refuses
// later what it does not know.
func (a *App) publish(ctx context.Context) {
	h, err := a.here()
	if err == nil {
		err = pacemaker.Publish(ctx, pacemaker.Start{Host: h.ID, BootID: h.BootID})
	}
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		a.warnOf(err)
	}
}

// takeOver frees the volumes of a boot from a host that is gone: an earlier start of this
// one, and, if it may, one that the cluster has fenced. What else holds a volume is left for
// the boot to say.
func (a *App) takeOver(ctx context.Context, m *instance.Manager, o *bootOptions, may bool) error {
	mappings, err := a.movable(ctx, o)
	if err != nil {
		return err
	}
	for _, mp := range mappings {
		if mp.Source != bdm.SourceVolume {
			continue
		}
		vol, err := m.Volumes.Volume(ctx, mp.ID)
		if err != nil {
			return err
		}
		holders, err := m.Volumes.AttachmentsOf(ctx, vol.ID, "")
		if err != nil {
			return err
		}
		if vol.Multiattach {
			continue
		}
		for _, h := range holders {
			if err := a.takeFrom(ctx, m, h, may); err != nil {
				return fmt.Errorf("volume %s: %w", vol.ID, err)
			}
		}
	}
	return nil
}

func (a *App) takeFrom(ctx context.Context, m *instance.Manager, h volume.Attachment, may bool) error {
	why := "it was started anew since"
	switch {
	case h.InstanceID == "":
		return nil // another program's
	case m.Earlier(h):
	case m.Here(h):
		return nil // in use
	case !may:
		return nil
	default:
		var err error
		if why, err = pacemaker.Gone(ctx, pacemaker.Start{Name: h.Host, Host: h.HostID, BootID: h.BootID}); err != nil {
			return err
		}
	}
	a.warn("taking volume %s from the host %s: %s", h.VolumeID, cmp.Or(h.Host, h.HostID), why)
	_, err := m.Release(ctx, h.VolumeID, cmp.Or(h.HostID, h.Host), onlyAs(h))
	return err
}

// onlyAs agrees to the release of one attachment alone, of one start of its host: that is what
// the cluster has said something of.
func onlyAs(h volume.Attachment) func(instance.Holding) error {
	return func(now instance.Holding) error {
		for _, n := range now.Attachments {
			if n.ID != h.ID || n.BootID != h.BootID {
				return fmt.Errorf("it was taken anew meanwhile: %w", volume.InUse(now.Volume))
			}
		}
		return nil
	}
}

// movable are the mappings of a boot that can be repeated on another host. One that cannot
// is refused.
func (a *App) movable(ctx context.Context, o *bootOptions) ([]bdm.Mapping, error) {
	blocks := o.blocks
	err := blocks.CheckFlags()
	if err == nil {
		blocks.Files, err = jsonFiles(ctx, blocks.BlockDevices)
	}
	var mappings []bdm.Mapping
	if err == nil {
		mappings, err = bdm.Mappings(blocks)
	}
	if err != nil {
		return nil, parameterError{err}
	}
	for _, mp := range mappings {
		switch {
		case mp.Root() && mp.Source != bdm.SourceVolume:
			return nil, wrongParameter("the root is made from %s %q at each start, and would be another one on each host: give a volume", mp.Source, mp.ID)
		case mp.Source != bdm.SourceVolume && mp.Dest == bdm.DestVolume:
			return nil, wrongParameter("the block device %s would be made anew at each start: make the volume before, and give source=volume", mp)
		case mp.Source == bdm.SourceVolume && path.IsAbs(mp.ID):
			return nil, wrongParameter("%s is a device of this host, and no other has it: give a volume", mp.ID)
		}
	}
	return mappings, nil
}
