// `make grafana`: config/grafana-dashboard.json, put behind this, is of the types that Grafana publishes of its dashboards.
// Owns what Grafana publishes no type of: the parts of one that is exported to be shared. The options of each kind of panel
// are of that kind's own types; what they leave out, Grafana fills in.

import type { Dashboard, FieldConfig, Panel, RowPanel, VariableModel } from "@grafana/schema";
import type * as Stat from "@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen";
import type * as Table from "@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen";
import type * as TimeSeries from "@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen";

// JSON has the values of enumerations, not their names.
type Written<T> = unknown extends T ? T
  : T extends string ? `${T}`
  : T extends (infer U)[] ? Written<U>[]
  : T extends object ? { [K in keyof T]: Written<T[K]> }
  : T;
type Shown<Kind extends string, Options, Custom> = Omit<Written<Panel>, "type" | "options" | "fieldConfig"> & {
  type: Kind;
  options: Written<Partial<Options>>;
  fieldConfig: Omit<Written<NonNullable<Panel["fieldConfig"]>>, "defaults"> & {
    defaults: Omit<Written<FieldConfig>, "custom"> & { custom: Written<Partial<Custom>> };
  };
};
type AnyPanel = Written<RowPanel> | Shown<"stat", Stat.Options, {}> | Shown<"table", Table.Options, Table.FieldConfig>
  | Shown<"timeseries", TimeSeries.Options, TimeSeries.FieldConfig>;
type Variable = Written<VariableModel> & { definition?: string };
type Import = Omit<Written<Dashboard>, "panels" | "templating"> & {
  panels: AnyPanel[];
  templating: { list: Variable[] };
  __inputs: Record<string, string>[];
  __elements: {};
  __requires: Record<string, string>[];
};
export const dashboard: Import =
