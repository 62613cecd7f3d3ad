package main

import (
	"fmt"
	"strings"
)

var escapes = strings.NewReplacer(`\`, `\e`, "-", `\-`, "'", `\(aq`, "`", `\(ga`, "^", `\(ha`, "~", `\(ti`)

// roff is a text of one line as roff has it, which ends that line.
func roff(text string) string {
	text = escapes.Replace(text)
	if strings.HasPrefix(text, ".") {
		text = `\&` + text
	}
	return text + "\n"
}

func bold(text string) string { return `\fB` + strings.TrimSuffix(roff(text), "\n") + `\fR` }

// paragraphs are a text of several lines. Those that are set in are kept as they are.
func paragraphs(text string) string {
	var b strings.Builder
	kept, begun := false, false
	keep := func(now bool) {
		if now != kept {
			b.WriteString(map[bool]string{true: ".PP\n.EX\n", false: ".EE\n"}[now])
		}
		kept = now
	}
	for line := range strings.Lines(strings.Trim(text, "\n") + "\n") {
		line = strings.TrimRight(line, "\n ")
		switch {
		case line == "":
			begun = false
		case strings.TrimLeft(line, " \t") != line:
			keep(true)
			b.WriteString(roff(line))
			begun = true
		default:
			if keep(false); !begun {
				b.WriteString(".PP\n")
			}
			b.WriteString(roff(line))
			begun = true
		}
	}
	keep(false)
	return b.String()
}

// literal are lines that are shown as they are typed.
func literal(lines []string) string {
	var b strings.Builder
	b.WriteString(".EX\n")
	for _, line := range lines {
		b.WriteString(roff(line))
	}
	return b.String() + ".EE\n"
}

// item is one of a list: what it is called, in roff, and what it is.
func item(name, text string) string { return fmt.Sprintf(".TP\n%s\n%s", name, roff(text)) }
