package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/lxcboot/lxcboot/pkg/bdm"
	"github.com/lxcboot/lxcboot/pkg/failure"
	"github.com/lxcboot/lxcboot/pkg/instance"
)

// maxDefinition is the most bytes that are read of a definition.
const maxDefinition = 1 << 20

// showDefinition prints what boot --from takes. It asks neither libvirt nor the cloud.
func (a *App) showDefinition(ref string) error {
	if len(a.print.Columns) > 0 || a.print.Format != "table" && a.print.Format != "json" {
		return failure.Invalid("--definition prints JSON; leave --format and --column out")
	}
	if err := needRoot(); err != nil {
		return err
	}
	records, err := a.records()
	if err != nil {
		return err
	}
	rec, err := records.Find(ref)
	if err != nil {
		return err
	}
	d, err := instance.DefinitionOf(&rec)
	if err != nil {
		return err
	}
	enc := json.NewEncoder(a.Out)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(d)
}

// besideFrom are the flags of boot that go with --from.
var besideFrom = map[string]bool{"from": true, "dry-run": true, "poll": true, "help": true}

// bootFrom boots what a definition describes, under another name if one is given.
func (a *App) bootFrom(ctx context.Context, c *cobra.Command, file string, dryRun bool, names []string) (err error) {
	c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Changed && !besideFrom[f.Name] && err == nil {
			err = failure.Invalid("--from says all that --%s could say; change it there, or leave one of both out", f.Name)
		}
	})
	if err != nil {
		return err
	}
	d, err := a.readDefinition(ctx, file)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		d.Name = names[0]
	}
	o := definitionOptions(d)
	o.dryRun = dryRun
	if err = a.boot(ctx, o, d.Name); errors.Is(err, failure.ErrInvalid) {
		err = fmt.Errorf("--from %s: %w", file, err)
	}
	return err
}

// readDefinition reads the definition in a file, or of "-" that on standard input.
func (a *App) readDefinition(ctx context.Context, file string) (d instance.Definition, err error) {
	var data []byte
	if file == "-" {
		data, err = a.readStdin(ctx, maxDefinition)
	} else {
		data, _, err = readInput(ctx, file, maxDefinition)
	}
	if err == nil {
		d, err = instance.ParseDefinition(data)
	}
	if err != nil {
		err = inputError("--from "+file, err)
	}
	return d, err
}

// readStdin reads standard input to its end, whatever that is.
func (a *App) readStdin(ctx context.Context, limit int64) (data []byte, err error) {
	done := make(chan struct{})
	go func() {
		data, err = io.ReadAll(io.LimitReader(a.In, limit+1))
		close(done)
	}()
	select {
	case <-ctx.Done(): // whoever reads goes with the process
		return nil, context.Cause(ctx)
	case <-done:
	}
	if int64(len(data)) > limit {
		err = fmt.Errorf("there are more than %d bytes, which are the most that are read of it", limit)
	}
	return data, err
}

// definitionOptions are the flags that say what a definition does.
func definitionOptions(d instance.Definition) *bootOptions {
	o := &bootOptions{
		blocks: bdm.Request{Flavor: d.Flavor}, nics: d.NICs, called: d.Hostname, description: d.Description, tags: d.Tags,
		init: d.Init, initArgs: d.InitArgs, privileged: d.Privileged, fsck: d.Fsck, restart: d.Restart, grow: d.Grow == "all", noGrow: d.Grow == "none",
		meta: pairs(d.Metadata), env: pairs(d.Env), changed: func(string) bool { return false },
	}
	for _, device := range d.BlockDevices {
		o.blocks.BlockDevices = append(o.blocks.BlockDevices, string(device))
	}
	if d.ConfigDrive != nil {
		o.configDrive = fmt.Sprint(*d.ConfigDrive)
	}
	return o
}

// pairs is a map as keyValues reads it.
func pairs(m map[string]string) (all []string) {
	for k, v := range m {
		all = append(all, k+"="+v)
	}
	return all
}
