// What a dashboard of this repository may hold, in terms of Grafana's own types (package @grafana/schema 10.4.15, Apache 2.0).
// README.md says how grafana-10.4.15.json is made of it.
import * as core from './node_modules/@grafana/schema/dist/esm/raw/dashboard/x/dashboard_types.gen';
import { PrometheusDataQuery } from './node_modules/@grafana/schema/dist/esm/raw/composable/prometheus/dataquery/x/PrometheusDataQuery_types.gen';
import * as timeseries from './node_modules/@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';
import * as stat from './node_modules/@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import * as gauge from './node_modules/@grafana/schema/dist/esm/raw/composable/gauge/panelcfg/x/GaugePanelCfg_types.gen';
import * as table from './node_modules/@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import * as piechart from './node_modules/@grafana/schema/dist/esm/raw/composable/piechart/panelcfg/x/PieChartPanelCfg_types.gen';
import * as heatmap from './node_modules/@grafana/schema/dist/esm/raw/composable/heatmap/panelcfg/x/HeatmapPanelCfg_types.gen';
import * as statushistory from './node_modules/@grafana/schema/dist/esm/raw/composable/statushistory/panelcfg/x/StatusHistoryPanelCfg_types.gen';

// The core leaves options, custom fields and queries open: they belong to the panel's kind and to the data source.
type Panel<Kind extends string, Options, Custom> = Omit<core.Panel, 'type' | 'options' | 'fieldConfig' | 'targets'> & {
  type: Kind;
  options: Options;
  fieldConfig: { defaults: Omit<core.FieldConfig, 'custom'> & { custom?: Partial<Custom> }; overrides: [] };
  targets?: PrometheusDataQuery[];
};
type AnyPanel =
  | Panel<'timeseries', timeseries.Options, timeseries.FieldConfig>
  | Panel<'stat', stat.Options, {}>
  | Panel<'gauge', gauge.Options, {}>
  | Panel<'table', table.Options, table.FieldConfig>
  | Panel<'piechart', piechart.Options, piechart.FieldConfig>
  | Panel<'heatmap', heatmap.Options, heatmap.FieldConfig>
  | Panel<'status-history', statushistory.Options, statushistory.FieldConfig>
  // Grafana publishes no types of this one's options.
  | Panel<'alertlist', Record<string, unknown>, {}>;
// What the Prometheus data source reads of an annotation; the core does not list it.
type Annotation = core.AnnotationQuery & { expr: string; step?: string; titleFormat?: string };

export type GrafanaDashboard = Omit<core.Dashboard, 'panels' | 'annotations'> & {
  panels: AnyPanel[];
  annotations: { list: Annotation[] };
};
