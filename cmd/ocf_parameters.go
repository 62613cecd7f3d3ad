package cmd

import (
	"context"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lxcboot/lxcboot/pkg/instance"
)

// parameters are those of the resource. ocfMetaData describes them.
type parameters struct {
	name, definition      string
	flavor, volume        string
	blockDevices, options string
	takeover              string
}

// ocfParameters reads them where the OCF standard has them. check says what is wrong in them.
func ocfParameters() parameters {
	get := func(name string) string { return strings.TrimSpace(os.Getenv("OCF_RESKEY_" + name)) }
	return parameters{
		name: get("name"), definition: get("definition"), flavor: get("flavor"), volume: get("volume"),
		blockDevices: get("block_devices"), options: get("options"), takeover: get("takeover"),
	}
}

// mayTake says whether volumes are taken from hosts that are gone; known is false where the
// parameter is neither yes nor no.
func (p parameters) mayTake() (yes, known bool) {
	switch strings.ToLower(p.takeover) {
	case "yes", "true", "1", "on", "y", "ja":
		return true, true
	case "", "no", "false", "0", "off", "n":
		return false, true
	}
	return false, false
}

// check is for what starts something. A stop and a monitor need no more than a name: an error
// of theirs has hosts fenced, and what is configured wrong was never started.
func (p parameters) check() error {
	if _, known := p.mayTake(); !known {
		return wrongParameter("takeover: %q is neither yes nor no", p.takeover)
	}
	if p.name == "" {
		return wrongParameter("the parameter name is missing: the name of the instance")
	}
	if err := instance.CheckName(p.name); err != nil {
		return parameterError{err}
	}
	return nil
}

// ocfOptions are the flags of the boot that the parameters stand for, checked as far as that
// needs nothing of this host.
func (a *App) ocfOptions(ctx context.Context, p parameters) (*bootOptions, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	o := &bootOptions{}
	if p.definition != "" {
		if p.volume+p.blockDevices+p.flavor+p.options != "" {
			return nil, wrongParameter("definition says all that volume, block_devices, flavor and options could: leave it or them out")
		}
		d, err := a.readDefinition(ctx, p.definition)
		if err != nil {
			return nil, err // the file may be there on another host
		}
		o = definitionOptions(d)
	} else {
		var words []string
		for flag, value := range map[string]string{"--flavor": p.flavor, "--boot-volume": p.volume} {
			if value != "" {
				words = append(words, flag, value)
			}
		}
		for _, device := range strings.Fields(p.blockDevices) {
			words = append(words, "--block-device", device)
		}
		c := &cobra.Command{Use: "boot"}
		a.bootFlags(c, o)
		if err := c.ParseFlags(append(words, strings.Fields(p.options)...)); err != nil {
			return nil, wrongParameter("options: %s", flagText(c, err))
		}
		if more := c.Flags().Args(); len(more) > 0 {
			return nil, wrongParameter("options: %q is no flag of boot", more[0])
		}
	}
	if o.restart != "" {
		return nil, wrongParameter("options: it is Pacemaker that starts it again; leave --restart out")
	}
	_, err := a.movable(ctx, o)
	return o, err
}

func (a *App) ocfMetaData() error {
	_, err := a.Out.WriteString(ocfMetaData)
	return err
}

const ocfMetaData = `<?xml version="1.0"?>
<!DOCTYPE resource-agent SYSTEM "ra-api-1.dtd">
<resource-agent name="instance" version="1.0">
<version>1.0</version>
<longdesc lang="en">
A container that lxcboot boots from volumes which every host of the cluster reaches. start
boots it; stop deletes it and keeps its volumes, so that they are free for the next host.
</longdesc>
<shortdesc lang="en">A container of lxcboot</shortdesc>
<parameters>
<parameter name="name" unique="1" required="1">
<longdesc lang="en">Name of the instance.</longdesc>
<shortdesc lang="en">Name</shortdesc>
<content type="string"/>
</parameter>
<parameter name="volume" unique="1" required="0">
<longdesc lang="en">Id or name of the volume that is its root.</longdesc>
<shortdesc lang="en">Root volume</shortdesc>
<content type="string"/>
</parameter>
<parameter name="block_devices" required="0">
<longdesc lang="en">Block devices as --block-device of lxcboot boot takes them, with spaces between. Volumes have to be there: source=volume.</longdesc>
<shortdesc lang="en">Block devices</shortdesc>
<content type="string"/>
</parameter>
<parameter name="flavor" required="0">
<longdesc lang="en">Name or id of the flavor.</longdesc>
<shortdesc lang="en">Flavor</shortdesc>
<content type="string"/>
</parameter>
<parameter name="options" required="0">
<longdesc lang="en">More flags of lxcboot boot, as --nic bridge=br0, with spaces between; there is no quoting.</longdesc>
<shortdesc lang="en">More flags</shortdesc>
<content type="string"/>
</parameter>
<parameter name="definition" required="0">
<longdesc lang="en">Path of a file, the same on each host, with what lxcboot show --definition prints; it takes the place of volume, block_devices, flavor and options.</longdesc>
<shortdesc lang="en">Definition</shortdesc>
<content type="string"/>
</parameter>
<parameter name="takeover" required="0">
<longdesc lang="en">Whether the volumes are taken from a host that is gone. Only where the cluster fences: a host that still runs would go on writing.</longdesc>
<shortdesc lang="en">Take volumes over</shortdesc>
<content type="boolean" default="no"/>
</parameter>
</parameters>
<actions>
<action name="start" timeout="120s"/>
<action name="stop" timeout="120s"/>
<action name="monitor" timeout="30s" interval="10s" depth="0"/>
<action name="meta-data" timeout="5s"/>
<action name="validate-all" timeout="20s"/>
</actions>
</resource-agent>
`
