package app

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/vasta-net/vasta/flow/policy"
	"github.com/vasta-net/vasta/internal/options"
)

// rules makes the policy that the options ask for; nil for none.
func rules(o *options.Options) (*policy.Set, error) {
	var all []policy.Rule
	for _, source := range o.Rules {
		if source.File == "" {
			all = append(all, source.Rule)
			continue
		}
		more, err := rulesOf(source.File)
		if err != nil {
			return nil, fmt.Errorf("option --policy: %w", err)
		}
		all = append(all, more...)
	}
	if len(all) == 0 {
		return nil, nil
	}
	set, err := policy.Compile(all)
	if err != nil {
		return nil, fmt.Errorf("options --allow, --deny and --policy: %w", err)
	}
	return set, nil
}

// rulesOf reads a file of rules.
func rulesOf(path string) ([]policy.Rule, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("%w (name a file that you may read, with a rule a line: allow ..., deny ...)", err)
	}
	defer f.Close()
	list, err := policy.ReadRules(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list, nil
}

// policyCounters are what the counters say of the rules.
func policyCounters(set *policy.Set) (json.RawMessage, error) {
	return json.Marshal(map[string]any{"rules": set.Counts(), "unlearned_addresses": set.Unlearned()})
}
